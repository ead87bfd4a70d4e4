"""A router whose routes are reached or not, depending on the document that it is used with."""

from typing import Any

from fastapi import APIRouter, WebSocket

inner = APIRouter(prefix="/inner")
router = APIRouter()
patterns = APIRouter()


@router.get("/shadowed")
@router.delete("/users/me")
@router.get("/docs/mine")
@router.get("/free")
async def plain() -> dict[str, Any]:
    return {}


@router.get("/users/{name}")
async def user(name: str) -> dict[str, Any]:
    return {"name": name}


@router.get("/files/{rest:path}")
async def file(rest: str) -> dict[str, Any]:
    return {"rest": rest}


@inner.websocket("/chat")
async def chat(socket: WebSocket) -> None:
    await socket.accept()


router.include_router(inner)


@patterns.get("/tasks/7:go")
@patterns.get("/tasks/{number:int}:go")
@patterns.get("/tasks/{name}")
@patterns.get("/tree/{name}/leaf")
@patterns.get("/tree")
async def pattern() -> dict[str, Any]:
    return {}
