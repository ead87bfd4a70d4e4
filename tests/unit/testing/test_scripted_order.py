"""Answers of scripted upstreams that wait for events instead of time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from anabranch.testing.scripted.record import Answers
from anabranch.testing.scripted.upstream import ScriptedUpstream

# No answer may arrive in this window: nothing triggers the event that it waits for.
QUIET_S = 0.05


class Pair:
    """Two joined upstreams. `a` has the given behaviour; `b` answers at `/b`, and never at `/hang`."""

    def __init__(self, a: dict[str, Any]) -> None:
        self.a = ScriptedUpstream({"*": a})
        self.b = ScriptedUpstream({"/b": {"json": 2}, "/hang": {"hang": True}})
        self.answers = Answers()
        for upstream in (self.a, self.b):
            upstream.join({"a": self.a, "b": self.b}, self.answers)


@asynccontextmanager
async def pair(a: dict[str, Any]) -> AsyncIterator[tuple[Pair, Callable[[str], "asyncio.Task[httpx.Response]"]]]:
    """The upstreams, and a function that sends requests: `a/...` to `a`, `b/...` to `b`."""
    made = Pair({"json": 1, **a})
    async with AsyncExitStack() as exits:
        urls = {name: (await exits.enter_async_context(upstream)).url for name, upstream in (("a", made.a), ("b", made.b))}
        client = await exits.enter_async_context(httpx.AsyncClient(timeout=20))

        def ask(what: str) -> "asyncio.Task[httpx.Response]":
            name, _, path = what.partition("/")
            return asyncio.create_task(client.get(f"{urls[name]}/{path}"))

        yield made, ask


async def held(made: Pair, task: "asyncio.Task[httpx.Response]", hits: int = 1) -> None:
    """Check that the request has reached `a` and gets no answer."""
    await made.a.until(lambda a: len(a.hits) == hits)
    await asyncio.sleep(QUIET_S)
    assert not task.done()


@pytest.mark.parametrize("names", ["b", ["b"], {"b": 1}])
async def test_an_answer_is_held_until_another_upstream_was_hit(names: object) -> None:
    async with pair({"once_hit": names}) as (made, ask):
        asked = ask("a/x")
        await held(made, asked)
        await ask("b/b")
        assert (await asked).json() == 1


async def test_an_answer_is_held_until_another_upstream_has_the_given_hits() -> None:
    async with pair({"once_hit": {"b": 2}}) as (made, ask):
        asked = ask("a/x")
        await ask("b/b")
        await held(made, asked)
        await ask("b/b")
        assert (await asked).json() == 1


async def test_an_upstream_may_wait_for_its_own_hits() -> None:
    async with pair({"once_hit": {"a": 2}}) as (made, ask):
        first = ask("a/x")
        await held(made, first)
        second = ask("a/x")
        assert [(await first).json(), (await second).json()] == [1, 1]
        assert made.a.max_concurrent == 2


async def test_an_answer_is_held_until_an_exchange_of_another_upstream_was_aborted() -> None:
    async with pair({"once_aborted": "b"}) as (made, ask):
        asked, hanging = ask("a/x"), ask("b/hang")
        await made.b.until(lambda b: len(b.hits) == 1)
        await held(made, asked)
        hanging.cancel()
        assert (await asked).json() == 1
        assert made.b.aborted == 1


async def test_an_answer_is_held_until_the_client_has_the_given_number_of_answers() -> None:
    async with pair({"once_answered": 2}) as (made, ask):
        asked = ask("a/x")
        made.answers.add()
        await held(made, asked)
        made.answers.add()
        assert (await asked).json() == 1


async def test_a_held_answer_counts_as_aborted_when_its_client_disconnects() -> None:
    async with pair({"once_answered": 1}) as (made, ask):
        asked = ask("a/x")
        await made.a.until(lambda a: len(a.hits) == 1)
        asked.cancel()
        await made.a.until(lambda a: a.aborted == 1 and a.open == 0)


def test_waiting_for_an_unknown_upstream_is_rejected() -> None:
    upstream = ScriptedUpstream({"*": {"once_hit": ["a", "b"]}})
    with pytest.raises(ValueError, match="do not exist: b"):
        upstream.join({"a": upstream}, Answers())
