"""Compiles a call: a function from a frame to the request for the upstream.

Parts that do not depend on the client's request are rendered once, at compile time. A value from a request cannot inject anything: in a path
it is exactly one segment, in a query one value, in a header one line.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from anabranch.core import path_value
from anabranch.core.exchange import HeaderBlock, Request
from anabranch.errors import MissingReference
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.model import HeaderPairs
from anabranch.plan.reference import Reference, Template, is_whole
from anabranch.plan.value import as_long_text, as_text, elements

SlotOf = Callable[[Reference], int]
Build = Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], Request]

_LITERAL_PATH: Final = "/-._~!$&'()*+,;=:@%?"
"""Characters that are not percent-encoded in the literal parts of a path template (RFC 3986 section 3.3), and of a query in the template."""
_FORBIDDEN_IN_HEADER: Final = {*range(0x20), 0x7F} - {0x09}
PROPAGATED: Final = (b"x-request-id", b"traceparent", b"tracestate")
"""Fields that every upstream call carries. The caller of the build passes their values as `always`."""


def _segment(value: Any, source: str, allows_slashes: bool) -> str:
    """A value as one path segment, percent-encoded. Rejects what would change the path: `anabranch.core.path_value`."""
    text = as_text(value)
    if text is None:
        fault = "has no value" if value is MISSING else "cannot be used in a path: it is not a string, number or boolean"
        raise MissingReference(f"{source} {fault}")
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


def compile_query(
    query: Mapping[str, Any], parse: Callable[[str], Template], slot_of: SlotOf, optional: Callable[[Reference], bool]
) -> Callable[[Frame], str]:
    """A function from a frame to the query without `?`; "" when it is empty. The function raises MissingReference.

    A value that is one reference to an array repeats the name for each element. `optional`: whether the client may leave out what a reference
    names. If the client does, the query parameter is left out of the call too.
    """
    parts: list[str | Callable[[Frame], str]] = []
    for name, node in query.items():
        key = quote(name, safe="")
        for value in node if isinstance(node, list) else [node]:
            if not isinstance(value, str):
                parts.append(f"&{key}={quote(as_text(value) or '', safe='')}" if value is not None else "")
                continue
            template = parse(value)
            if is_whole(template) and isinstance(template[0], Reference):
                parts.append(_whole_value(key, slot_of(template[0]), str(template[0]), is_optional=optional(template[0])))
            elif any(isinstance(part, Reference) for part in template):
                parts.append(_long_value(key, [part if isinstance(part, str) else (slot_of(part), str(part)) for part in template]))
            else:
                parts.append(f"&{key}={quote(''.join(map(str, template)), safe='')}")
    if all(isinstance(part, str) for part in parts):
        constant = "".join(map(str, parts))[1:]
        return lambda _frame: constant
    return lambda frame: "".join([part if type(part) is str else part(frame) for part in parts])[1:]  # type: ignore[operator]


def _encode(text: str) -> str:
    return text if text.isalnum() and text.isascii() else quote(text, safe="")


def _whole_value(key: str, slot: int, source: str, *, is_optional: bool) -> Callable[[Frame], str]:
    prefix = f"&{key}="

    def render(frame: Frame) -> str:
        value = frame[slot]
        text = as_text(value)
        if text is not None:
            return prefix + _encode(text)
        if (array := elements(value)) is not None:
            texts = [as_text(item) for item in array]
            if None not in texts:
                return "".join([prefix + _encode(text) for text in texts if text is not None])
        elif is_optional and (value is MISSING or value is None):
            return ""
        fault = "has no value" if value is MISSING else "cannot be used in a query: it is not a string, number, boolean or list of these"
        raise MissingReference(f"{source} {fault}")

    return render


def _long_value(key: str, parts: list[str | tuple[int, str]]) -> Callable[[Frame], str]:
    render = _long_text(parts)
    return lambda frame: f"&{key}={quote(render(frame), safe='')}"


def _long_text(parts: list[str | tuple[int, str]]) -> Callable[[Frame], str]:
    def render(frame: Frame) -> str:
        out = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
                continue
            text = as_long_text(frame[part[0]])
            if text is None:
                raise MissingReference(f"{part[1]} has no value")
            out.append(text)
        return "".join(out)

    return render


def _header(name: bytes, template: Template, slot_of: SlotOf, *, is_optional: bool) -> Callable[[Frame], tuple[bytes, bytes] | None]:
    """A function from a frame to a header field. `is_optional`: the template is one reference that the client may leave out; the field is
    then left out too."""
    parts: list[str | tuple[int, str]] = [part if isinstance(part, str) else (slot_of(part), str(part)) for part in template]
    render = _long_text(parts)
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
    upstream: Mapping[str, str],
    step: Mapping[str, Template],
    forward: Sequence[str],
    slot_of: SlotOf,
    optional: Callable[[Reference], bool],
) -> tuple[HeaderBlock, Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], HeaderPairs]]:
    """The fixed header fields of a call, and a function for those that depend on the request.

    Precedence for the same name, highest first: the step, the upstream, the client (`forward`), the gateway's defaults.
    """
    fixed: dict[str, str] = {name.lower(): value for name, value in upstream.items()}
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
    propagated = {name.decode() for name in PROPAGATED}
    forwarded = [(low, low.encode()) for low in dict.fromkeys(name.lower() for name in forward) if low not in named | propagated]
    # A default that the client may replace depends on the request.
    replaceable = {low: value for low, value in defaults.items() if any(low == name for name, _ in forwarded)}
    fixed = {**{low: value for low, value in defaults.items() if low not in named and low not in replaceable}, **fixed}
    forwards = [(name, replaceable[low].encode() if low in replaceable else None) for low, name in forwarded]
    blocked = {low.encode() for low in named & propagated}

    def extra(frame: Frame, client: Mapping[bytes, bytes], always: HeaderPairs) -> HeaderPairs:
        if blocked:
            always = tuple(pair for pair in always if pair[0] not in blocked)
        if not forwards and not dynamic:
            return always
        pairs = list(always)
        for name, default in forwards:
            value = client.get(name, default)
            if value is not None:
                pairs.append((name, value))
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
) -> Build:
    """Combine the compiled parts of a call. `query_glue`: `?`, or `&` when the path already has a query."""
    if query is None and body is None:
        return lambda frame, client, always: Request(method, path(frame), headers, extra(frame, client, always), None)

    def build(frame: Frame, client: Mapping[bytes, bytes], always: HeaderPairs) -> Request:
        target = path(frame)
        if query is not None and (text := query(frame)):
            target = f"{target}{query_glue}{text}"
        return Request(method, target, headers, extra(frame, client, always), None if body is None else body(frame))

    return build
