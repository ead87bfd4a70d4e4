"""The surroundings of a policy layer under test: calls, a scripted next layer or transport, and a recorder of events."""

import asyncio
from collections.abc import Callable

from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.policy.call import Call
from anabranch.policy.event import PolicyEvent

OK = Answer(200, [], b"{}")
ADDRESS = Address.parse("http://127.0.0.1:9101")

# One act of a scripted layer: an answer to return, an error to raise, or a number of seconds to wait before the next act.
Act = Answer | BaseException | float


def answer(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    return Answer(status, [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()], body)


def make_call(
    target: str = "/",
    *,
    seconds: float = 1.0,
    method: str = "GET",
    is_idempotent: bool = True,
    is_required: bool = True,
    is_coalesced: bool = False,
    wants_notes: bool = False,
    headers: HeaderBlock | None = None,
    extra: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes | None = None,
) -> Call:
    """A call whose deadline is in `seconds`. Only inside a running loop."""
    request = Request(method, target, headers or HeaderBlock(pairs=(), wire=b""), extra, body)
    return Call(
        request,
        deadline=asyncio.get_running_loop().time() + seconds,
        is_idempotent=is_idempotent,
        is_required=is_required,
        is_coalesced=is_coalesced,
        wants_notes=wants_notes,
    )


class Scripted:
    """Replaces the next layer, or a transport. Each call plays one script; the last script is repeated.

    `calls`: calls received. `began`: their start times, in loop time. `running`: calls in flight; `peak`: its maximum. `cancelled`: number
    of cancelled calls.
    """

    def __init__(self, *scripts: Act | list[Act]) -> None:
        self._scripts = [script if isinstance(script, list) else [script] for script in scripts or (OK,)]
        self.calls: list[Call] = []
        self.requests: list[Request] = []
        self.deadlines: list[float] = []
        self.began: list[float] = []
        self.running = 0
        self.peak = 0
        self.cancelled = 0

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        call.attempts += 1
        if call.address is None:
            call.address = ADDRESS
        return await self._play()

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        self.requests.append(request)
        self.deadlines.append(deadline)
        return await self._play()

    async def aclose(self) -> None:
        pass

    async def _play(self) -> Answer:
        script = self._scripts[min(len(self.began), len(self._scripts) - 1)]
        self.began.append(asyncio.get_running_loop().time())
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for act in script:
                if isinstance(act, Answer):
                    return act
                if isinstance(act, BaseException):
                    raise act
                await asyncio.sleep(act)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return OK


class Events(list[PolicyEvent]):
    """An observer that records the events that it receives."""

    def __call__(self, event: PolicyEvent) -> None:
        self.append(event)

    def kinds(self) -> list[str]:
        return [event.kind for event in self]


def after(seconds: float, act: Callable[[], object]) -> None:
    """Call `act` in `seconds` of loop time."""
    asyncio.get_running_loop().call_later(seconds, act)
