"""Hooks for tests: some well-behaved, others misbehaving in every way that the pools must survive."""

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel

from anabranch import Refused

MARK: ContextVar[str] = ContextVar("MARK", default="unset")
HOARD: list[bytes] = []
GATE = threading.Event()


class Flight(BaseModel):
    id: int
    delay: float = 0.0


def add(a: int, b: int = 2) -> int:
    return a + b


def echo(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - a hook without annotations
    return value


def size(value: str) -> int:
    return len(value)


def make(size: int) -> str:
    return "x" * size


def mean(flights: list[Flight]) -> float:
    return sum(flight.delay for flight in flights) / len(flights)


def worst(flights: list[Flight]) -> Flight | None:
    return max(flights, key=lambda flight: flight.delay, default=None)


def lies(a: int = 0) -> int:
    return "no number"  # type: ignore[return-value]


def unserializable() -> Any:
    return object()


def text_of_json(text: str) -> bytes:
    return text.encode()


def anything(**named: Any) -> Any:
    return named


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def held() -> str:
    """Returns when the test sets GATE. For thread pools only: GATE exists in this process."""
    GATE.wait(60)
    return "held"


def spin() -> NoReturn:
    while True:
        pass


def leave(code: int) -> NoReturn:
    os._exit(code)


def polite_exit() -> NoReturn:
    sys.exit(3)


def crash() -> None:
    ctypes.string_at(0)


def raises(message: str) -> NoReturn:
    raise ValueError(message)


def close_everything() -> None:
    os.closerange(3, 100)


def hoard(megabytes: int) -> int:
    HOARD.append(os.urandom(1) * (megabytes << 20))
    return os.getpid()


def leave_a_child() -> int:
    """Starts a process that outlives the call."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def mark(text: str) -> str:
    before = MARK.get()
    MARK.set(text)
    return before


def shout(text: str) -> None:
    print(text)  # noqa: T201 - the output is what the test is about


async def later(value: int) -> int:
    await asyncio.sleep(0.001)
    return value


async def block(seconds: float) -> None:
    await asyncio.sleep(0)
    time.sleep(seconds)


async def never() -> NoReturn:
    while True:
        await asyncio.sleep(60)


async def stubborn(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            continue


async def async_raises() -> NoReturn:
    raise KeyError("secret")


def positional(a: int, /) -> int:
    return a


def generator() -> Any:
    yield 1


def unresolvable(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    return None


def unchecked(a: Any, b: object = None) -> Any:
    return [a, b]


class Statistics:
    @staticmethod
    def total(values: list[int]) -> int:
        return sum(values)


NUMBER = 5


def not_finite(text: str) -> Any:
    """A number that JSON does not have, among others: `nan`, `inf` or `-inf`."""
    return {"mean": float(text), "count": None}


def not_finite_list(text: str) -> list[float]:
    return [1.5, float(text)]


class Reading(BaseModel):
    value: float
    comment: str | None = None


def not_finite_model(text: str) -> Reading:
    return Reading(value=float(text))


def successor(n: int) -> int:
    return n + 1


def half_a_character() -> str:
    return "\ud83d"


def refuses(status: int = 422, title: str = "", detail: str = "", headers: Any = None, extra: Any = None) -> NoReturn:
    raise Refused(status, title, detail, headers, extra)


async def refuses_later(status: int = 422) -> NoReturn:
    await asyncio.sleep(0)
    raise Refused(status)


def unless_free(seats: int, wanted: int) -> int:
    """The seats that are left."""
    if wanted > seats:
        raise Refused(409, "Sold out", f"only {seats} seats are left", {"Retry-After": "60"}, {"seats_left": seats})
    return seats - wanted


def _refuse_even(value: int) -> int:
    if value % 2 == 0:
        raise Refused(422, "Odd numbers only")
    return value


Odd = Annotated[int, AfterValidator(_refuse_even)]


def odd(n: Odd) -> int:
    return n


async def odd_later(n: Odd) -> int:
    return n
