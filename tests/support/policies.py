"""What tests of the policy layers need around a layer: calls, a scripted next layer or transport, and a note of all events."""

import asyncio
from collections.abc import Callable

from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.policy.call import Call
from anabranch.policy.event import PolicyEvent

OK = Answer(200, [], b"{}")
ADDRESS = Address.parse("http://127.0.0.1:9101")

# What a scripted layer does: an answer, an error to raise, or a number of seconds to take before the next item decides.
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
    """A call with `seconds` left. Only inside a running loop."""
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
    """Stands for the next layer, or for a transport. Each call plays one script; the last script is repeated.

    `calls`: what arrived. `began`: when, in loop time. `running`: how many run now, `peak`: at most at once. `cancelled`: how many were.
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
    """An observer that keeps what it is told."""

    def __call__(self, event: PolicyEvent) -> None:
        self.append(event)

    def kinds(self) -> list[str]:
        return [event.kind for event in self]


def after(seconds: float, act: Callable[[], object]) -> None:
    """Do something `seconds` of loop time from now."""
    asyncio.get_running_loop().call_later(seconds, act)
