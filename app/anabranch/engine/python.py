"""Fan-out from Python code, with the same upstreams, policies, deadlines and outcomes as the document's endpoints.

Independent of FastAPI; `anabranch.edge.python` makes it a dependency.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar, Unpack, overload
from urllib.parse import quote, urlencode

from anabranch.config import model as config
from anabranch.core import path_value
from anabranch.core.exchange import HeaderBlock, Request
from anabranch.core.field import name_fault, value_fault
from anabranch.core.forwarding import Arrival, carrier_of
from anabranch.core.principal import Principal
from anabranch.core.tasks import cancel_and_wait
from anabranch.engine.answer import FanAnswer
from anabranch.engine.operation import accept, note
from anabranch.engine.outcome import Outcome
from anabranch.errors import StepError
from anabranch.jsontext.values import dump
from anabranch.plan.forwarding import compile_host
from anabranch.plan.kinds.call import DEFAULT_HEADERS, IDEMPOTENT, has_own_credentials
from anabranch.plan.model import HeaderPairs
from anabranch.plan.request import compile_headers
from anabranch.plan.upstream import UpstreamPlan
from anabranch.plan.value import as_text
from anabranch.policy.call import Call, Policy

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PATH_SAFE: Final = "/-._~!$&'()*+,;=:@%?"


class FanOutFailed(Exception):
    """A required call failed. `failure`: its reason. `outcomes`: those of all calls of the request that have ended."""

    def __init__(self, failure: StepError, outcomes: list[Outcome]) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.outcomes = outcomes


def segment(value: object) -> str:
    """`value` as one percent-encoded path segment; booleans become `true` and `false`.

    Raises ValueError for None, an empty text, and a text with `.` or `..` as a segment (`a/../b`, `%2e%2e`), which would change the path.
    """
    text = _text(value)
    fault = "must not be None: it is part of a path" if value is None else path_value.fault(text)
    if fault is not None:
        raise ValueError(f"the value cannot be a path segment: it {fault}")
    return quote(text, safe="")


class FanOptions(TypedDict, total=False):
    """Options of every call: see `FanOut.call`."""

    method: str
    query: Mapping[str, Any] | None
    headers: Mapping[str, str] | None
    body: Any
    timeout: float | None
    idempotent: bool | None
    name: str | None


class FanValueOptions(FanOptions, total=False):
    """Options of a call for a JSON value: see `FanOut.call`."""

    optional: bool
    default: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FanCall(Generic[T_co]):
    """A call that is described but not sent yet. Made by `FanOut.call`. `wants_answer`: its value is a `FanAnswer`."""

    name: str
    upstream: str
    request: Request
    is_required: bool
    is_idempotent: bool
    default: Any
    timeout_s: float | None
    wants_answer: bool


@dataclass(frozen=True, slots=True)
class UpstreamHandle:
    """An upstream as called from Python: its policy stack, its fixed header fields, and the forwarding of the client's. `carried`: adds what it is
    told of the client. `host`: its Host header; None: the address's. `tells_client`: its calls carry a token of the client."""

    policy: Policy
    headers: HeaderBlock
    forward: "Any" = field(repr=False)
    carried: Callable[[HeaderPairs, Arrival | None], HeaderPairs] = field(repr=False)
    host: Callable[[Mapping[bytes, bytes]], bytes] | None = None
    has_own_credentials: bool = False
    allows_encoded_slashes: bool = True
    tells_client: bool = False


def upstream_handles(upstreams: Mapping[str, UpstreamPlan], policies: Mapping[str, Policy]) -> dict[str, UpstreamHandle]:
    """A handle for each upstream of a document, by name. Called once per document."""
    handles = {}
    for name, upstream in upstreams.items():
        block, forward = compile_headers(
            defaults=DEFAULT_HEADERS, upstream=upstream, step={}, forward=upstream.forward_headers,
            slot_of=lambda _: 0, optional=lambda _: False,
        )  # fmt: skip
        handles[name] = UpstreamHandle(
            policies[name],
            block,
            forward,
            carrier_of(upstream.forwarded),
            compile_host(upstream.host),
            has_own_credentials(upstream, block),
            upstream.allows_encoded_slashes,
            upstream.tells_client,
        )
    return handles


class FanOut:
    """The calls of one request. `deadline`: absolute, monotonic time at which every call ends. `outcomes`: those of all calls so far. `arrival`: how the request
    came; None if no client sent it. `principal`: the client, if somebody has asked who it is."""

    def __init__(
        self,
        handles: Mapping[str, UpstreamHandle],
        *,
        deadline: float,
        client_headers: Mapping[bytes, bytes],
        extra: HeaderPairs,
        arrival: Arrival | None = None,
        principal: Callable[[], Principal | None] = lambda: None,
    ) -> None:
        self._handles = handles
        self._client_headers = client_headers
        self._principal = principal
        self._extra = extra
        self._arrival = arrival
        self._began = monotonic()
        self.deadline = deadline
        self.outcomes: list[Outcome] = []

    @property
    def is_complete(self) -> bool:
        """Whether no call has failed so far."""
        return all(outcome.failure is None for outcome in self.outcomes)

    def set_timeout(self, seconds: float) -> None:
        """Replace the default timeout of this request. `seconds`: from the start of the request."""
        self.deadline = self._began + seconds

    @overload
    def call(self, upstream: str, path: str, *, answer: Literal[True], **options: Unpack[FanOptions]) -> FanCall[FanAnswer]: ...
    @overload
    def call(
        self, upstream: str, path: str, *, answer: Literal[True], optional: bool, **options: Unpack[FanOptions]
    ) -> FanCall[FanAnswer | None]: ...
    @overload
    def call(self, upstream: str, path: str, *, answer: Literal[False] = False, **options: Unpack[FanValueOptions]) -> FanCall[Any]: ...

    def call(
        self,
        upstream: str,
        path: str,
        *,
        method: str = "GET",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        timeout: float | None = None,
        optional: bool = False,
        default: Any = None,
        idempotent: bool | None = None,
        name: str | None = None,
        answer: bool = False,
    ) -> FanCall[Any]:
        """Describe a call; `gather` sends it.

        `path`: as sent on the wire; insert untrusted values with `segment(value)`. `query`: a list repeats its name for each element; None
        values are omitted. `body`: any JSON value; None sends no body. `timeout`: seconds for the whole call, including waiting and
        retries. `optional`: a failed call gives `default`. `idempotent`: whether the call may be sent twice; None: if the method is
        idempotent. `name`: name in Server-Timing and problems, of letters, digits, `_` and `-`; None: the upstream's. `answer`: the value of the
        call is a `FanAnswer`, whatever its status; the call fails only if there is no answer at all.

        Raises KeyError for an upstream that is not in the document; ValueError for an invalid path, header field or name, and for an answer
        with a default; ValueError or TypeError for a body that is not JSON, such as one with NaN in it.
        """
        handle = self._handles.get(upstream)
        if handle is None:
            raise KeyError(f"the document has no upstream {upstream!r}; it has {', '.join(self._handles) or 'none'}")
        if answer and default is not None:
            raise ValueError("a call with `answer` has no default: without an answer its value is None")
        if not path.startswith("/") or "#" in path:
            raise ValueError("a path must start with / and have no fragment")
        for part in path.partition("?")[0].split("/"):
            if part and (why := path_value.fault(part, allows_slashes=handle.allows_encoded_slashes)) is not None:
                raise ValueError(f"a segment of the path {why}")
        target = quote(path, safe=_PATH_SAFE)
        if pairs := [(key, _text(item)) for key, value in (query or {}).items() for item in _items(value) if item is not None]:
            target += ("&" if "?" in target else "?") + urlencode(pairs, quote_via=quote)
        extra = list(handle.forward([], self._client_headers, handle.carried(self._extra, self._arrival)))
        content = None
        if body is not None:
            content = dump(body)
            extra.append((b"content-type", b"application/json"))
        for field_name, value in (headers or {}).items():
            if fault := name_fault(field_name) or value_fault(value):
                raise ValueError(fault)
            extra = [pair for pair in extra if pair[0] != field_name.lower().encode()]
            extra.append((field_name.lower().encode(), value.encode()))
        block = handle.headers
        named = {pair[0] for pair in extra}
        if any(key in named for key, _ in block.pairs):
            block = HeaderBlock.of([pair for pair in block.pairs if pair[0] not in named])
        method = method.upper()
        return FanCall(
            name=upstream if name is None else config.checked_name(name),
            upstream=upstream,
            request=Request(
                method, target, block, tuple(extra), content, b"" if handle.host is None else handle.host(self._client_headers)
            ),
            is_required=not optional,
            is_idempotent=idempotent if idempotent is not None else method in IDEMPOTENT,
            default=default,
            timeout_s=timeout,
            wants_answer=answer,
        )

    async def get(self, upstream: str, path: str, **options: Unpack[FanValueOptions]) -> Any:
        """Send one GET and return its JSON value: `gather(call(...))[0]`. `options`: those of `call`."""
        return (await self.gather(self.call(upstream, path, **options)))[0]

    async def fetch(self, upstream: str, path: str, **options: Unpack[FanOptions]) -> FanAnswer:
        """Send one call and return its answer, of any status: `gather(call(..., answer=True))[0]`. `options`: those of `call`."""
        return (await self.gather(self.call(upstream, path, answer=True, **options)))[0]

    async def gather(self, *calls: FanCall[T]) -> list[T]:
        """Run the calls concurrently. Returns their values in call order, with `default` for an optional call that failed.

        Raises FanOutFailed when a required call fails, after cancelling the others. Cancellation cancels all calls. In every case all
        calls have ended when this method returns or raises.
        """
        if len(calls) < 2:
            return [await self._run(call) for call in calls]
        tasks = [asyncio.ensure_future(self._run(call)) for call in calls]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await cancel_and_wait(tasks)
        errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            raise errors[0]
        return [task.result() for task in tasks]

    async def _run(self, call: FanCall[T]) -> T:
        outcome = Outcome(call.name, call.upstream)
        began = monotonic()
        outcome.started_s = began - self._began
        deadline = self.deadline if call.timeout_s is None else min(self.deadline, began + call.timeout_s)
        handle = self._handles[call.upstream]
        principal = self._principal()
        sent = Call(
            call.request,
            deadline=deadline,
            is_idempotent=call.is_idempotent,
            is_required=call.is_required,
            principal=principal.exact if handle.tells_client and principal is not None else principal,
        )
        value: Any = call.default
        try:
            try:
                answer = await handle.policy(sent)
            finally:
                note(outcome, sent)
            if call.wants_answer:
                outcome.status, outcome.headers, outcome.stale_age_s = answer.status, answer.headers, sent.stale_age_s
                value = FanAnswer(answer)
            else:
                accept(answer, sent, outcome, has_own_credentials=handle.has_own_credentials)
                value = FanAnswer(answer).json()
            outcome.raw = answer.body
        except StepError as error:
            outcome.failure = error
        outcome.elapsed_s = monotonic() - began
        self.outcomes.append(outcome)
        if outcome.failure is not None and call.is_required:
            raise FanOutFailed(outcome.failure, self.outcomes)
        found: T = value
        return found


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> str:
    """Booleans and numbers as in JSON, anything else as `str` formats it."""
    text = as_text(value)
    return str(value) if text is None else text
