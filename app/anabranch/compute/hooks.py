"""Checks hooks when a document is loaded: does the function exist, does it take the step's arguments, can it run on the step's backend.

Imports the operator's modules into the gateway's own process. Every fault is a sentence for the operator.
"""

import inspect
import sys
from typing import Any, Final

from anabranch.compute.call import HookError, resolve
from anabranch.config.problems import did_you_mean
from anabranch.plan.known import HookCheck
from anabranch.plan.model import PoolKind

SEARCHED: Final = "modules are searched in the document's folder, the working directory and the installed packages"


def check_hook(hook: str, arguments: tuple[str, ...], kind: PoolKind) -> HookCheck:
    """Check one hook. `arguments`: names that the step passes. `kind`: of the pool: thread, process or dask."""
    module_name, _, path = hook.partition(":")
    if not module_name or not path or path.startswith(".") or path.endswith("."):
        return HookCheck(fault="a hook is written as module:function")
    try:
        resolved = resolve(hook)
    except ModuleNotFoundError as error:
        return HookCheck(fault=f"there is no module {error.name}", hint=SEARCHED)
    except AttributeError:
        return _missing(module_name, path)
    except HookError as error:
        return HookCheck(fault=f"{hook} cannot be a hook: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing runs the operator's code
        return HookCheck(fault=f"the module {module_name} cannot be imported: {type(error).__name__}: {error}")
    if (fault := _kind_fault(resolved.function, module_name, kind, is_async=resolved.is_async)) is not None:
        return fault
    if (fault := _input_fault(resolved.signature, arguments)) is not None:
        return fault
    return HookCheck(result_schema=None if resolved.result is None else _schema(resolved.result))


def _missing(module_name: str, path: str) -> HookCheck:
    module = sys.modules.get(module_name)
    if module is None or hasattr(module, path.partition(".")[0]):
        return HookCheck(fault=f"the module {module_name} has no {path}")
    return HookCheck(fault=f"the module {module_name} has no {path}", hint=did_you_mean(path, vars(module)))


def _kind_fault(function: Any, module_name: str, kind: PoolKind, *, is_async: bool) -> HookCheck | None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return HookCheck(fault="a hook must return its result, but this function is a generator", hint="return a list")
    if kind == "thread":
        return None
    if is_async:
        return HookCheck(
            fault=f"an async function runs on the event loop and cannot use executor: {kind}", hint="define it without `async`"
        )
    module = sys.modules[module_name]
    if module_name == "__main__" or getattr(module, "__spec__", None) is None:
        return HookCheck(
            fault=f"executor: {kind} cannot import {module_name} in another process", hint="move the function into an importable module"
        )
    return None


def _input_fault(signature: inspect.Signature, arguments: tuple[str, ...]) -> HookCheck | None:
    by_name = {}
    takes_any = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            if parameter.default is parameter.empty:
                return HookCheck(
                    fault=f"the function's argument `{name}` cannot be passed by name", hint="remove the `/` from the signature"
                )
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            by_name[name] = parameter
    unknown = [name for name in arguments if name not in by_name]
    if unknown and not takes_any:
        takes = f"it takes {', '.join(f'`{name}`' for name in by_name)}" if by_name else "it takes none"
        return HookCheck(
            fault=f"the function has no argument `{unknown[0]}`", hint=did_you_mean(unknown[0], by_name) or takes, is_about_input=True
        )
    missing = [name for name, parameter in by_name.items() if parameter.default is parameter.empty and name not in arguments]
    if missing:
        return HookCheck(
            fault=f"the function needs the argument `{missing[0]}`", hint=f"add it: `input: {{{missing[0]}: ...}}`", is_about_input=True
        )
    return None


def _schema(adapter: Any) -> dict[str, Any] | None:
    """The JSON Schema of a result; None for a type that pydantic can check but JSON Schema cannot describe."""
    try:
        schema: dict[str, Any] = adapter.json_schema(mode="serialization")
    except Exception:  # noqa: BLE001 - runs code of the user's types
        return None
    return schema
