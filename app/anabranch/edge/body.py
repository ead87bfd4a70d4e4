"""Reads a request body and checks its size, its arrival in time, that it is JSON in UTF-8, and the plan's schema."""

import asyncio
from typing import Final

from starlette.types import Receive

from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.proof import NotJSON, prove
from anabranch.plan.model import BodyPlan

_CURL_HINT: Final = "; with curl, add -H 'content-type: application/json' (or use --json)"


class ClientGone(Exception):
    """The client disconnected. There is nobody to answer."""


async def read(plan: BodyPlan, frame: Frame, headers: dict[bytes, bytes], receive: Receive, deadline: float) -> bytes:
    """Read the body, fill the frame from it, and return it. When an optional body is missing, its slots stay empty.

    `headers`: lower-case names. `deadline`: loop time by which the whole body must have arrived.
    Raises InvalidBody, BodyTooLarge, UnsupportedMediaType, BodyTimeout, ClientGone.
    """
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > plan.max_size_bytes:
        raise _too_large(plan)
    media_type = headers.get(b"content-type")
    if media_type is not None and length != b"0" and media_type != b"application/json" and not _is_json(media_type):
        raise _unsupported(media_type)
    try:
        async with asyncio.timeout_at(deadline):
            raw = await _receive_all(plan, receive)
    except TimeoutError:
        raise BodyTimeout("the body did not arrive before the request's deadline") from None
    if not raw:
        if plan.is_required:
            raise InvalidBody("a JSON body is required")
        return raw
    try:
        prove(raw)
    except NotJSON as error:
        raise InvalidBody(f"the body is {error}") from None
    if plan.validate is not None:
        try:
            plan.validate(raw)
        except ValueError as error:
            faults = [str(fault) for fault in error.args]
            detail = f"the body does not fit its schema: {faults[0]}" if len(faults) == 1 else f"the body has {len(faults)} faults"
            raise InvalidBody(detail, errors=[{"in": "body", "detail": fault} for fault in faults]) from None
    plan.read(raw, frame)
    return raw


async def _receive_all(plan: BodyPlan, receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > plan.max_size_bytes:
            raise _too_large(plan)
        return body
    chunks: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > plan.max_size_bytes:
            raise _too_large(plan)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()
    raise ClientGone


def _is_json(media_type: bytes) -> bool:
    """True for `application/json` and the `+json` suffix (RFC 6839 section 3.1), with any parameters."""
    essence = media_type.partition(b";")[0].strip().lower()
    return essence == b"application/json" or essence.endswith(b"+json")


def _unsupported(media_type: bytes) -> UnsupportedMediaType:
    hint = _CURL_HINT if media_type.startswith(b"application/x-www-form-urlencoded") else ""
    shown = media_type.partition(b";")[0].decode("ascii", "replace")[:100]
    return UnsupportedMediaType(f"this endpoint accepts application/json, not {shown}{hint}", headers={"accept": "application/json"})


def _too_large(plan: BodyPlan) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the limit of {plan.max_size_bytes} bytes")
