"""Compiles a call: a function from a frame to the request for the upstream.

Parts that do not depend on the client's request are rendered once, at compile time. A value from a request cannot inject anything: in a path
it is exactly one segment, in a query one value, in a header one line.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from anabranch.config.base import ALL
from anabranch.core import path_value
from anabranch.core.exchange import HeaderBlock, Request
from anabranch.core.field import is_safe_value
from anabranch.core.forwarding import FORWARDING
from anabranch.errors import MissingReference
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.encode.multipart import Encoded
from anabranch.plan.forwarding import PROPAGATED, ForwardQuery, compile_all
from anabranch.plan.model import HeaderPairs
from anabranch.plan.reference import Reference, Template, is_whole
from anabranch.plan.template import SlotOf, nothing, parts_of, render_text
from anabranch.plan.upstream import UpstreamPlan
from anabranch.plan.value import as_text, elements, is_null

Build = Callable[[Frame, Mapping[bytes, bytes], HeaderPairs, bytes], Request]
"""Builds a request from a frame, the client's header fields (lower-case names), the fields that the gateway itself adds to every call of the client's
request, and the client's query (raw, without `?`). Raises MissingReference and LeftOut."""

_LITERAL_PATH: Final = "/-._~!$&'()*+,;=:@%?"
"""Characters that are not percent-encoded in the literal parts of a path template (RFC 3986 section 3.3), and of a query in the template."""
_CHOSEN_BY_CLIENT: Final = ("accept", "user-agent")
"""Fields that have a default, and that `*` takes from the client."""
_KEPT_PATH: Final = "/-._~!$&'()*+,;=:@%"
"""Characters of a client's path that are not percent-encoded in another path: those of a path, and the `%` of what is encoded."""


def _segment(value: Any, source: str, allows_slashes: bool) -> str:
    """A value as one path segment, percent-encoded; an array as its elements with commas between. Rejects what would change the path:
    `anabranch.core.path_value`."""
    text = as_text(value)
    if text is None:
        if (array := elements(value)) is None or None in map(as_text, array):
            fault = "has no value" if value is MISSING else "cannot be used in a path: it is not a string, number, boolean or list of these"
            raise nothing(source, fault) if is_null(value) else MissingReference(f"{source} {fault}")
        if not array:
            raise nothing(source, "is an array without elements, and a path without the value would ask for something else")
        return ",".join([_segment(item, source, allows_slashes) for item in array])
    if text.isalnum() and text.isascii():
        return text
    if (why := path_value.fault(text, allows_slashes=allows_slashes)) is not None:
        raise MissingReference(f"{source} {why}")
    return quote(text, safe="")


def _segments(value: Any, source: str, allows_slashes: bool) -> str:
    """The remaining segments of the client's path as segments of another path, with their encoding kept. None may climb out."""
    for segment in value.split("/"):
        if segment and (why := path_value.fault(segment, allows_slashes=allows_slashes)) is not None:
            raise MissingReference(f"{source} {why}")
    return quote(value, safe=_KEPT_PATH)


def compile_path(
    template: Template, slot_of: SlotOf, *, allows_slashes: bool = True, is_rest: Callable[[Reference], bool] = lambda _: False
) -> Callable[[Frame], str]:
    """A function from a frame to the path. The function raises MissingReference. `allows_slashes`: values may have `/` and `\\`, encoded.
    `is_rest`: whether a reference stands for several segments, encoded already."""
    render_of = [_segments if isinstance(part, Reference) and is_rest(part) else _segment for part in template]
    parts = [quote(part, safe=_LITERAL_PATH) if isinstance(part, str) else (slot_of(part), str(part)) for part in template]
    if all(isinstance(part, str) for part in parts):
        constant = "".join(str(part) for part in parts)
        return lambda _frame: constant
    if len(parts) == 2 and isinstance(parts[0], str) and isinstance(parts[1], tuple):
        before, (slot, source), write = parts[0], parts[1], render_of[1]
        return lambda frame: before + write(frame[slot], source, allows_slashes)
    pairs = list(zip(parts, render_of, strict=True))

    def render(frame: Frame) -> str:
        return "".join([part if type(part) is str else write(frame[part[0]], part[1], allows_slashes) for part, write in pairs])  # type: ignore[index]

    return render


def _header(name: bytes, template: Template, slot_of: SlotOf, *, is_optional: bool) -> Callable[[Frame], tuple[bytes, bytes] | None]:
    """A function from a frame to a header field. `is_optional`: the template is one reference that the client may leave out; the field is
    then left out too."""
    parts = parts_of(template, slot_of)
    render = render_text(parts)
    slot = parts[0][0] if is_optional and isinstance(parts[0], tuple) else None

    def field(frame: Frame) -> tuple[bytes, bytes] | None:
        if slot is not None and (frame[slot] is MISSING or frame[slot] is None):
            return None
        value = render(frame).encode()
        if not is_safe_value(value):
            raise MissingReference(f"the value of the header {name.decode()} contains control characters")
        return name, value.strip()

    return field


def compile_headers(
    *,
    defaults: Mapping[str, str],
    upstream: UpstreamPlan,
    step: Mapping[str, Template],
    forward: Sequence[str],
    slot_of: SlotOf,
    optional: Callable[[Reference], bool],
    content_type: str | None = None,
    kept_back: Collection[str] = (),
) -> tuple[HeaderBlock, Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], HeaderPairs]]:
    """The fixed header fields of a call, and a function for those that depend on the request.

    Precedence for the same name, highest first: the step, the upstream, the gateway's own (`always`: the request's id and trace, and what the
    upstream is told of the client), the client (`forward`), the gateway's defaults. `content_type`: only the step replaces it; "": it is added in
    another way; None: as the others. `kept_back`: lower-case names of fields that `*` does not stand for.
    """
    fixed: dict[str, str] = {name.lower(): value for name, value in upstream.headers.items()}
    if content_type is not None:
        fixed["content-type"] = content_type
    dynamic: list[Callable[[Frame], tuple[bytes, bytes] | None]] = []
    named = set(fixed)
    for name, template in step.items():
        low = name.lower()
        named.add(low)
        fixed.pop(low, None)
        if any(isinstance(part, Reference) for part in template):
            is_optional = is_whole(template) and isinstance(template[0], Reference) and optional(template[0])
            dynamic.append(_header(low.encode(), template, slot_of, is_optional=is_optional))
        else:
            fixed[low] = "".join(map(str, template))
    own = {name.decode() for name in (*PROPAGATED, *(() if upstream.forwarded == "off" else FORWARDING))}
    is_all = ALL in forward
    listed = dict.fromkeys(name.lower() for name in forward if name != ALL)
    if is_all:
        listed |= dict.fromkeys(_CHOSEN_BY_CLIENT)
    forwarded = [(low, low.encode()) for low in listed if low not in named | own]
    # A default that the client may replace depends on the request.
    replaceable = {low: value for low, value in defaults.items() if any(low == name for name, _ in forwarded)}
    fixed = {**{low: value for low, value in defaults.items() if low not in named and low not in replaceable}, **fixed}
    forwards = [(name, replaceable[low].encode() if low in replaceable else None) for low, name in forwarded]
    blocked = {low.encode() for low in named & own}
    select_all = (
        compile_all({low.encode() for low in {*named, *listed, *kept_back}} | {upstream.deadline_header or b""}) if is_all else None
    )

    def extra(frame: Frame, client: Mapping[bytes, bytes], always: HeaderPairs) -> HeaderPairs:
        if blocked:
            always = tuple(pair for pair in always if pair[0] not in blocked)
        if not forwards and not dynamic and select_all is None:
            return always
        pairs = list(always)
        for name, default in forwards:
            value = client.get(name, default)
            if value is not None:
                pairs.append((name, value))
        if select_all is not None:
            pairs += select_all(client)
        pairs.extend(pair for field in dynamic if (pair := field(frame)) is not None)
        return tuple(pairs)

    block = HeaderBlock.of([(name.encode(), value.encode()) for name, value in fixed.items() if value or name != "content-type"])
    return block, extra


def compile_build(
    *,
    method: str,
    path: Callable[[Frame], str],
    query: Callable[[Frame], str] | None,
    query_glue: str,
    headers: HeaderBlock,
    extra: Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], HeaderPairs],
    body: Callable[[Frame], bytes] | None,
    multipart: Callable[[Frame], Encoded] | None = None,
    forward_query: ForwardQuery | None = None,
    host: Callable[[Mapping[bytes, bytes]], bytes] | None = None,
) -> Build:
    """Combine the compiled parts of a call. `query_glue`: `?`, or `&` when the path already has a query. `multipart`: instead of `body`, gives the
    content type too."""
    if query is None and body is None and multipart is None and forward_query is None and host is None:
        return lambda frame, client, always, _raw: Request(method, path(frame), headers, extra(frame, client, always), None)

    def build(frame: Frame, client: Mapping[bytes, bytes], always: HeaderPairs, raw: bytes) -> Request:
        target = path(frame)
        text = "" if query is None else query(frame)
        if forward_query is not None and (sent := forward_query(raw)):
            text = f"{sent}&{text}" if text else sent
        if text:
            target = f"{target}{query_glue}{text}"
        fields = extra(frame, client, always)
        return Request(method, target, headers, fields, None if body is None else body(frame), b"" if host is None else host(client))

    return build if multipart is None else _with_parts(multipart, build)


def _with_parts(multipart: Callable[[Frame], Encoded], build: Build) -> Build:
    def build_with_parts(frame: Frame, client: Mapping[bytes, bytes], always: HeaderPairs, raw: bytes) -> Request:
        sent = build(frame, client, always, raw)
        body, media_type = multipart(frame)
        return Request(sent.method, sent.target, sent.headers, (*sent.extra, (b"content-type", media_type)), body, sent.host)

    return build_with_parts
