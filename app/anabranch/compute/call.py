"""Resolves a hook and calls it: JSON text in, JSON text out.

Runs wherever the function runs: in a thread of the gateway, in a worker process, on a cluster. So it imports little, keeps no state
between calls, and `call_hook` never raises: every failure becomes a reply.
"""

import importlib
import inspect
import traceback
import types
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any, Final, NamedTuple, Never, NoReturn, NotRequired, Required

import msgspec
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from anabranch.compute.refusal import Refused, pack
from anabranch.core.validation import sentence_of
from anabranch.jsontext.proof import decode_raw
from anabranch.jsontext.values import dump, load, refuse_infinity

_MOST_FAULTS: Final = 10
_NOTHING_TO_CHECK: Final = (inspect.Parameter.empty, Any, object, NoReturn, Never)
_BYTES: Final = (bytes, bytearray, memoryview)


class ReplyKind(IntEnum):
    """How a call ended. The payload of VALUE is JSON text, that of REFUSED a packed `Refusal`, and that of every other kind a text for the
    operator's log."""

    VALUE = 0
    FAILED = 1
    INVALID_INPUT = 2
    INVALID_RESULT = 3
    REFUSED = 4


class JobReply(NamedTuple):
    kind: ReplyKind
    payload: bytes


class HookError(Exception):
    """A hook cannot be resolved. The message is a sentence for the operator, without the hook's name."""


class Hook:
    """A function with the validators of its arguments and its result. Created once in each process.

    `is_async`: a coroutine function. `result`: validates the return annotation; None if there is nothing to validate.
    """

    __slots__ = ("_arguments", "function", "is_async", "result", "signature")

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise HookError("it is not a function")
        try:
            self.signature = inspect.signature(function, eval_str=True)
        except Exception as error:  # noqa: BLE001 - evaluates annotations, which may run any code
            raise HookError(f"its signature cannot be read: {type(error).__name__}: {error}") from None
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self._arguments = _arguments_of(self.signature)
        self.result = _result_of(self.signature)

    def arguments(self, text: bytes) -> dict[str, Any]:
        """The arguments by name. Raises ValidationError, and msgspec.DecodeError for a number that no Python number holds."""
        arguments: dict[str, Any] = load(text)
        return arguments if self._arguments is None else self._arguments.validate_json(text)

    def dump(self, value: Any) -> bytes:
        """The JSON text of the function's result; a result of type bytes is JSON text already. Raises ValueError, TypeError and
        msgspec.DecodeError."""
        if isinstance(value, _BYTES):
            text = bytes(value)
            if not text.isascii():
                text.decode()
            decode_raw(text)
            if self.result is not None:
                self.result.validate_json(text)
            return text.strip(b" \t\r\n")
        if self.result is None:
            return dump(value)
        valid = self.result.validate_python(value)
        text = self.result.dump_json(valid, by_alias=True)
        if b"null" in text:
            refuse_infinity(self.result.dump_python(valid, mode="json", by_alias=True))
        return text


@cache
def resolve(hook: str) -> Hook:
    """The hook named `module:function`. Raises HookError, and any exception that importing the module raises."""
    module_name, _, path = hook.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        found = getattr(found, name)
    return Hook(found)


def call_hook(hook: str, text: bytes) -> JobReply:
    """Call a function that is not async. `text`: JSON text of an object with the arguments by name. Never raises."""
    try:
        resolved = resolve(hook)
        arguments = resolved.arguments(text)
    except (ValidationError, msgspec.DecodeError, RecursionError) as error:
        return invalid(ReplyKind.INVALID_INPUT, error)
    except BaseException as error:  # noqa: BLE001 - a module that can no longer be imported
        return failed(error)
    try:
        value = resolved.function(**arguments)
    except BaseException as error:  # noqa: BLE001 - a hook may raise anything, including SystemExit
        return failed(error)
    return dumped(resolved, value)


def carry_out(function: str, order: str, payload: bytes) -> JobReply:
    """Have a function of the gateway itself carry out an order on a payload. Never raises."""
    try:
        return JobReply(ReplyKind.VALUE, resolve(function).function(order, payload))
    except BaseException as error:  # noqa: BLE001 - a fault of ours is logged like a hook's
        return failed(error)


def dumped(hook: Hook, value: Any) -> JobReply:
    """The reply for the result of a hook."""
    try:
        return JobReply(ReplyKind.VALUE, hook.dump(value))
    except Exception as error:  # noqa: BLE001 - runs serializers of the user's types
        return invalid(ReplyKind.INVALID_RESULT, error)


def failed(error: BaseException) -> JobReply:
    """The reply for an exception: a refusal, or the traceback of any other, without the gateway's own frame."""
    if isinstance(error, Refused):
        return JobReply(ReplyKind.REFUSED, pack(error.refusal))
    stack = error.__traceback__.tb_next if error.__traceback__ is not None else None
    text = "".join(traceback.format_exception(type(error), error, stack))
    return JobReply(ReplyKind.FAILED, text.encode(errors="replace"))


def invalid(kind: ReplyKind, error: Exception) -> JobReply:
    """The reply for an invalid value. Says what is wrong and where, but not the value: it may be a client's secret."""
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [
            f"{'.'.join(map(str, fault['loc'])) or 'the value'}: {sentence_of(fault, trusts_users=False)}"
            for fault in faults[:_MOST_FAULTS]
        ]
        if len(faults) > _MOST_FAULTS:
            lines.append(f"and {len(faults) - _MOST_FAULTS} more")
        text = "\n".join(lines)
    else:
        text = f"{type(error).__name__}: {error}"
    return JobReply(kind, text.encode(errors="replace"))


def _arguments_of(signature: inspect.Signature) -> TypeAdapter[dict[str, Any]] | None:
    """Validates all arguments in one pass over the JSON; None if no annotation needs validation."""
    fields: dict[str, Any] = {}
    is_open = is_checked = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            is_required = parameter.default is parameter.empty
            annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
            is_checked = is_checked or annotation not in _NOTHING_TO_CHECK
            fields[name] = Required[annotation] if is_required else NotRequired[annotation]
    if not is_checked:
        return None
    # Created at run time, because the names of the arguments are not known before.
    arguments: Any = types.new_class("arguments", (TypedDict,), exec_body=lambda body: body.update(__annotations__=fields))
    arguments.__pydantic_config__ = {"extra": "allow" if is_open else "forbid"}
    return _adapter("its arguments", arguments)


def _result_of(signature: inspect.Signature) -> TypeAdapter[Any] | None:
    annotation = signature.return_annotation
    if annotation in _NOTHING_TO_CHECK or annotation in _BYTES:
        return None
    return _adapter("its result", annotation)


def _adapter(what: str, annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except Exception as error:  # noqa: BLE001 - pydantic, and code of the user's types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HookError(f"the annotation of {what} cannot be checked: {reason}") from None
