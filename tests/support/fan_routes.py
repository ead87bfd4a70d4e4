"""Python routes over the upstreams `users` and `orders`, called by the fan-out tests."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from anabranch import Fan, Refused, segment

router = APIRouter()


@router.get("/profiles/{name}")
async def profile(name: str, fan: Fan) -> dict[str, Any]:
    """A required and an optional call."""
    user, orders = await fan.gather(
        fan.call("users", f"/users/{segment(name)}"),
        fan.call("orders", "/orders", query={"user": name}, optional=True),
    )
    return {"user": user, "orders": orders, "is_complete": fan.is_complete}


@router.get("/both")
async def both(fan: Fan) -> list[Any]:
    """Two required calls."""
    return await fan.gather(fan.call("users", "/users/ann"), fan.call("orders", "/orders"))


@router.get("/patient")
async def patient(fan: Fan, seconds: Annotated[float, Query(gt=0)]) -> Any:
    """One required call with its own deadline."""
    fan.set_timeout(seconds)
    return await fan.get("users", "/users/ann")


@router.get("/hasty")
async def hasty(fan: Fan) -> Any:
    """An optional call with a timeout of 0.4 s and a default."""
    return await fan.get("orders", "/orders", timeout=0.4, optional=True, default=["none"], name="latest")


@router.get("/own-response")
async def own_response(fan: Fan) -> Response:
    await fan.get("users", "/users/ann")
    return Response(b"<p>Ann</p>", 202, {"x-own": "yes", "gateway-complete": "?0"}, media_type="text/html")


@router.get("/refusing")
async def refusing(fan: Fan) -> Any:
    """Makes a call, then raises an HTTPException."""
    await fan.get("users", "/users/ann")
    raise HTTPException(409, "not now", headers={"retry-after": "7"})


@router.get("/fetched")
async def fetched(fan: Fan, method: str = "GET") -> dict[str, Any]:
    """One answer, of any status."""
    answer = await fan.fetch("users", "/users/ann", method=method, headers={"accept": "*/*"})
    return {
        "status": answer.status,
        "type": answer.headers.get("Content-Type"),
        "cookies": answer.headers.all("set-cookie"),
        "text": answer.text,
        "is_success": answer.is_success,
        "outcome": [fan.outcomes[0].status, fan.outcomes[0].failure, fan.is_complete],
    }


@router.get("/picture")
async def picture(fan: Fan) -> Response:
    """The bytes of a service."""
    answer = await fan.fetch("users", "/picture", headers={"accept": "image/*"})
    return Response(answer.body, answer.status, dict(answer.headers))


@router.get("/answers")
async def answers(fan: Fan) -> list[Any]:
    """Answers and values at once, one of them optional."""
    user, orders, value = await fan.gather(
        fan.call("users", "/users/ann", answer=True),
        fan.call("orders", "/orders", answer=True, optional=True),
        fan.call("users", "/users/bob", optional=True, default="nobody"),
    )
    return [user.status, None if orders is None else orders.status, value]


@router.get("/answer-as-json")
async def answer_as_json(fan: Fan) -> Any:
    return (await fan.fetch("users", "/users/ann")).json()


@router.get("/refused")
async def refused(fan: Fan) -> Any:
    await fan.get("users", "/users/ann")
    raise Refused(403, "Closed", "come back tomorrow", {"x-why": "closed"}, {"opens": 9})


@router.get("/broken")
async def broken(fan: Fan) -> Any:
    await fan.get("users", "/users/ann")
    raise ZeroDivisionError("a secret of the route")


@router.get("/half")
async def half(fan: Fan) -> StreamingResponse:
    """Fails after half of its response has been sent."""
    await fan.get("users", "/users/ann")

    async def content() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError("a secret of the route")

    return StreamingResponse(content())


@router.get("/mistaken")
async def mistaken(fan: Fan) -> Any:
    """Calls an upstream that the document does not define."""
    return await fan.get("nobody", "/")


@router.post("/orders")
async def order(request: Request, fan: Fan, item: dict[str, Any]) -> Any:
    """Forwards the body, with extra header fields."""
    call = fan.call("orders", "/orders", method="post", body=item, headers={"x-shop": "main", "Accept": "text/plain"})
    return (await fan.gather(call))[0]


@router.get("/many")
async def many(fan: Fan, count: int) -> int:
    """Many calls to `users`, then one optional call to `orders`."""
    calls = [fan.call("users", "/users/ann", name=f"call_{number}") for number in range(count)]
    await fan.gather(*calls, fan.call("orders", "/orders", optional=True))
    return count


@router.get("/plain")
async def plain() -> str:
    """Makes no call."""
    return "plain"
