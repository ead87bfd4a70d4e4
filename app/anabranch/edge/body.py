"""Reads a request body and checks its size, its arrival in time, that it is JSON in UTF-8, and the plan's schema.

A body in a content coding is refused, and not decoded: a small one can become a very large one, and clients compress requests only where a service
says that it takes them (RFC 9110 sections 8.4, 12.5.3 and 15.5.16).
"""

import asyncio
from typing import Final

from starlette.types import Receive

from anabranch.edge.disconnect import ClientGone
from anabranch.engine.request import ClientRequest
from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType
from anabranch.jsontext.proof import NotJSON, prove
from anabranch.plan.model import BodyPlan

_CURL_HINT: Final = "; with curl, add -H 'content-type: application/json' (or use --json)"


def check_head(request: ClientRequest, plan: BodyPlan) -> None:
    """Reject a body by what the head says of it. Raises BodyTooLarge, UnsupportedMediaType."""
    length = request.headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > plan.max_size_bytes:
        raise _too_large(plan)
    media_type = request.headers.get(b"content-type")
    if media_type is not None and length != b"0" and media_type != b"application/json" and not _is_json(media_type):
        raise _unsupported(media_type)
    codings = request.headers.get(b"content-encoding")
    if codings is not None and length != b"0":
        _check_codings(codings)


async def receive_body(request: ClientRequest, plan: BodyPlan, receive: Receive) -> None:
    """Receive the request's body, within its limit and before the deadline. Raises BodyTooLarge, BodyTimeout, ClientGone."""
    try:
        async with asyncio.timeout_at(request.deadline):
            request.body = await _receive_all(plan, receive)
    except TimeoutError:
        raise BodyTimeout("the body did not arrive before the request's deadline") from None


def read_body(request: ClientRequest, plan: BodyPlan) -> None:
    """Check the body that the request has, and fill the frame from it. When an optional body is missing, its slots stay empty.

    Raises InvalidBody.
    """
    raw = request.body
    if not raw:
        if plan.is_required:
            raise InvalidBody("a JSON body is required")
        return
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
    plan.read(raw, request.frame)


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


def _check_codings(codings: bytes) -> None:
    if any(coding.strip(b" \t").lower() not in {b"", b"identity"} for coding in codings.split(b",")):
        detail = "this endpoint accepts no content coding; send the body uncompressed, without Content-Encoding"
        raise UnsupportedMediaType(detail, headers={"accept-encoding": "identity"})


def _too_large(plan: BodyPlan) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the limit of {plan.max_size_bytes} bytes")
