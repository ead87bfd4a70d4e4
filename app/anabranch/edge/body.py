"""Reads a request body: its content type, its size, its arrival in time, its format, and the plan's schema. Whatever was sent, `request.body` is JSON
afterwards.

A body in a content coding is refused, and not decoded: a small one can become a very large one, and clients compress requests only where a service
says that it takes them (RFC 9110 sections 8.4, 12.5.3 and 15.5.16).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.types import Receive

from anabranch.edge.disconnect import ClientGone
from anabranch.edge.form import as_object, files_of, read_form
from anabranch.edge.multipart import MultipartReader, boundary_of
from anabranch.edge.spool import Spool
from anabranch.engine.request import ClientRequest
from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType, UploadNotStored
from anabranch.jsontext.proof import NotJSON, prove
from anabranch.jsontext.values import write
from anabranch.plan.model import BodyPlan

logger = logging.getLogger("anabranch.edge")

_CURL_HINT: Final = "; with curl, add -H 'content-type: application/json' (or use --json)"
_CHARSETS: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})

Receiver = Callable[[ClientRequest, BodyPlan, Receive], Awaitable[None]]


def check_head(request: ClientRequest, plan: BodyPlan) -> None:
    """Reject a body by what the head says of it. Raises BodyTooLarge, UnsupportedMediaType."""
    length = request.headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > plan.max_size_bytes:
        raise _too_large(plan)
    media_type = request.headers.get(b"content-type")
    if media_type is not None and length != b"0" and media_type != plan.media_type and not _is_accepted(media_type, plan):
        raise _unsupported(media_type, plan)
    codings = request.headers.get(b"content-encoding")
    if codings is not None and length != b"0":
        _check_codings(codings)


async def receive_json(request: ClientRequest, plan: BodyPlan, receive: Receive) -> None:
    """Receive the request's body, within its limit and before the deadline. Raises BodyTooLarge, BodyTimeout, ClientGone."""
    try:
        async with asyncio.timeout_at(request.deadline):
            request.body = await _receive_all(plan, receive)
    except TimeoutError:
        raise BodyTimeout("the body did not arrive before the request's deadline") from None


async def _receive_form(request: ClientRequest, plan: BodyPlan, receive: Receive) -> None:
    await receive_json(request, plan, receive)
    if request.body:
        request.body = read_form(request.body, plan.fields)


async def _receive_text(request: ClientRequest, plan: BodyPlan, receive: Receive) -> None:
    await receive_json(request, plan, receive)
    if request.body:
        try:
            request.body = write(request.body.decode())
        except UnicodeDecodeError as error:
            request.body = b""
            raise InvalidBody(f"the body is not UTF-8 at byte {error.start}") from None


async def _receive_multipart(request: ClientRequest, plan: BodyPlan, receive: Receive) -> None:
    reader: MultipartReader | None = None
    spool = Spool()
    request.on_end(spool.close)
    try:
        async with asyncio.timeout_at(request.deadline):
            async for chunk in _chunks(plan, receive):
                if reader is None:
                    reader = MultipartReader(_boundary(request), spool)
                reader.feed(chunk)
                await spool.settle()
            await spool.settle(is_last=True)
    except TimeoutError:
        raise BodyTimeout("the body did not arrive before the request's deadline") from None
    except OSError as error:
        logger.error("an upload could not be stored: %s, request %s", error.strerror or error, request.id.decode())  # noqa: TRY400
        raise UploadNotStored("the gateway could not store the upload") from None
    if reader is None:
        return
    reader.finish()
    request.body = as_object(reader.values, plan.fields)
    if plan.files_slot is not None:
        request.frame[plan.files_slot] = files_of(reader.values, plan.fields)


RECEIVERS: Final[dict[str, Receiver]] = {
    "json": receive_json,
    "form": _receive_form,
    "multipart": _receive_multipart,
    "text": _receive_text,
}
"""By the kind of the body. Each sets `request.body` to JSON, or leaves it empty, and raises RequestError and ClientGone."""


def read_body(request: ClientRequest, plan: BodyPlan) -> None:
    """Check the body that the request has, and fill the frame from it. When an optional body is missing, its slots stay empty.

    Raises InvalidBody.
    """
    raw = request.body
    if not raw:
        if plan.is_required:
            raise InvalidBody("a JSON body is required" if plan.kind == "json" else f"a body is required: {plan.media_type.decode()}")
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


async def _chunks(plan: BodyPlan, receive: Receive) -> AsyncIterator[bytes]:
    """The parts of the body that are not empty, as they come. Raises BodyTooLarge, ClientGone."""
    size = 0
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        has_more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            size += len(chunk)
            if size > plan.max_size_bytes:
                raise _too_large(plan)
            yield chunk


def _boundary(request: ClientRequest) -> bytes:
    media_type = request.headers.get(b"content-type")
    if media_type is None:
        raise UnsupportedMediaType(
            "this endpoint accepts multipart/form-data, and the request has no content type", headers={"accept": "multipart/form-data"}
        )
    return boundary_of(media_type)


def _is_accepted(media_type: bytes, plan: BodyPlan) -> bool:
    """True for the plan's type with any parameters, and for JSON also for the `+json` suffix (RFC 6839 section 3.1). A text is in UTF-8."""
    essence = media_type.partition(b";")[0].strip().lower()
    if plan.kind == "json":
        return essence == plan.media_type or essence.endswith(b"+json")
    if essence != plan.media_type:
        return False
    return plan.kind == "multipart" or parse_options_header(media_type)[1].get(b"charset", b"utf-8").lower() in _CHARSETS


def _unsupported(media_type: bytes, plan: BodyPlan) -> UnsupportedMediaType:
    accepted = plan.media_type.decode()
    essence = media_type.partition(b";")[0]
    shown = essence.decode("ascii", "replace")[:100]
    if essence.strip().lower() == plan.media_type:
        return UnsupportedMediaType(f"this endpoint accepts {accepted} in UTF-8 only", headers={"accept": f"{accepted};charset=utf-8"})
    hint = _CURL_HINT if plan.kind == "json" and media_type.startswith(b"application/x-www-form-urlencoded") else ""
    return UnsupportedMediaType(f"this endpoint accepts {accepted}, not {shown}{hint}", headers={"accept": accepted})


def _check_codings(codings: bytes) -> None:
    if any(coding.strip(b" \t").lower() not in {b"", b"identity"} for coding in codings.split(b",")):
        detail = "this endpoint accepts no content coding; send the body uncompressed, without Content-Encoding"
        raise UnsupportedMediaType(detail, headers={"accept-encoding": "identity"})


def _too_large(plan: BodyPlan) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the limit of {plan.max_size_bytes} bytes")
