"""Compiles a call: a function from a frame to the request for the upstream.

Parts that do not depend on the client's request are rendered once, at compile time. A value from a request cannot inject anything: in a path
it is exactly one segment, in a query one value, in a header one line.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from anabranch.config.base import ALL
from anabranch.core import path_value
from anabranch.core.exchange import HeaderBlock, Request
from anabranch.core.forwarding import FORWARDING
from anabranch.errors import MissingReference
from anabranch.jsontext.frame import MISSING, Frame
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
_FORBIDDEN_IN_HEADER: Final = {*range(0x20), 0x7F} - {0x09}


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


def compile_path(template: Template, slot_of: SlotOf, *, allows_slashes: bool = True) -> Callable[[Frame], str]:
    """A function from a frame to the path. The function raises MissingReference. `allows_slashes`: values may have `/` and `\\`, encoded."""
    parts = [quote(part, safe=_LITERAL_PATH) if isinstance(part, str) else (slot_of(part), str(part)) for part in template]
    if all(isinstance(part, str) for part in parts):
        constant = "".join(str(part) for part in parts)
        return lambda _frame: constant
    if len(parts) == 2 and isinstance(parts[0], str) and isinstance(parts[1], tuple):
        before, (slot, source) = parts[0], parts[1]
        return lambda frame: before + _segment(frame[slot], source, allows_slashes)

    def render(frame: Frame) -> str:
        return "".join([part if type(part) is str else _segment(frame[part[0]], part[1], allows_slashes) for part in parts])  # type: ignore[index]

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
        if not _FORBIDDEN_IN_HEADER.isdisjoint(value):
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
) -> tuple[HeaderBlock, Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], HeaderPairs]]:
    """The fixed header fields of a call, and a function for those that depend on the request.

    Precedence for the same name, highest first: the step, the upstream, the gateway's own (`always`: the request's id and trace, and what the
    upstream is told of the client), the client (`forward`), the gateway's defaults.
    """
    fixed: dict[str, str] = {name.lower(): value for name, value in upstream.headers.items()}
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
    select_all = compile_all({low.encode() for low in {*named, *listed}} | {upstream.deadline_header or b""}) if is_all else None

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

    block = HeaderBlock.of([(name.encode(), value.encode()) for name, value in fixed.items()])
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
    forward_query: ForwardQuery | None = None,
    host: Callable[[Mapping[bytes, bytes]], bytes] | None = None,
) -> Build:
    """Combine the compiled parts of a call. `query_glue`: `?`, or `&` when the path already has a query."""
    if query is None and body is None and forward_query is None and host is None:
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

    return build
