"""The gateway of a good tutorial: FastAPI, one shared httpx.AsyncClient, asyncio.gather, a dict as the response.

The pool allows more connections than the workloads use: the library's own limit of 100 makes it slower here.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypedDict

import httpx
from fastapi import FastAPI, Request

SERVICES: Final = os.environ["BENCH_SERVICES"].split()


class State(TypedDict):
    """State that the lifespan provides to requests."""

    client: httpx.AsyncClient


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    limits = httpx.Limits(max_connections=4096, max_keepalive_connections=4096)
    async with httpx.AsyncClient(timeout=10, limits=limits) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


async def fetch(request: Request, service: int, path: str) -> Any:
    response = await request.state.client.get(SERVICES[service] + path)
    response.raise_for_status()
    return response.json()


@app.get("/a")
async def group(request: Request) -> dict[str, Any]:
    user, orders, weather = await asyncio.gather(
        fetch(request, 0, "/user"),
        fetch(request, 1, "/orders"),
        fetch(request, 2, "/weather"),
    )
    return {"user": user, "orders": orders, "weather": weather}


@app.get("/b")
async def page(request: Request) -> dict[str, Any]:
    parts = await asyncio.gather(*(fetch(request, number, f"/parts/{number}") for number in range(10)))
    return {f"part{number}": part for number, part in enumerate(parts)}


@app.get("/c")
async def large(request: Request) -> dict[str, Any]:
    reports = await asyncio.gather(*(fetch(request, number, f"/reports/{number}") for number in range(3)))
    return {f"report{number}": report for number, report in enumerate(reports)}


@app.get("/d")
async def picked(request: Request) -> dict[str, Any]:
    report = await fetch(request, 0, "/reports/0")
    return {"report": {"batch": report["batch"], "summary": report["summary"]}}


@app.get("/e")
async def chain(request: Request) -> dict[str, Any]:
    account = await fetch(request, 0, "/accounts/17")
    customer = await fetch(request, 1, f"/customers/{account['customer_id']}")
    region = await fetch(request, 2, f"/regions/{customer['region']}")
    return {"account": account, "customer": customer, "region": region}


@app.get("/f")
async def slow(request: Request) -> dict[str, Any]:
    user, orders, weather = await asyncio.gather(
        fetch(request, 3, "/delay/50ms/user"),
        fetch(request, 4, "/delay/50ms/orders"),
        fetch(request, 5, "/delay/50ms/weather"),
    )
    return {"user": user, "orders": orders, "weather": weather}


@app.get("/g")
async def flaky(request: Request) -> dict[str, Any]:
    user, orders, weather = await asyncio.gather(
        fetch(request, 0, "/user"),
        fetch(request, 1, "/orders"),
        fetch(request, 6, "/flaky/weather"),
    )
    return {"user": user, "orders": orders, "weather": weather}
