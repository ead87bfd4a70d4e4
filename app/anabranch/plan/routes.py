"""Parses the paths of endpoints, and finds those that match the same requests."""

from typing import Final
from urllib.parse import unquote

RESERVED: Final = ("livez", "readyz", "metrics", "docs", "redoc", "openapi.json", "problems")
"""First segments of the paths that the gateway itself serves (DESIGN section 10)."""


class PathError(ValueError):
    """A path is not valid. The message is for the operator."""


def parse_path(path: str) -> tuple[str, ...]:
    """The segments of an endpoint's path: literal text percent-decoded, a parameter as `{name}`. Raises PathError."""
    if not path.startswith("/"):
        raise PathError("a path must start with /")
    if any(char in path for char in "?#") or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in path):
        raise PathError("a path must not have a query, a fragment, white space or control characters")
    segments = tuple(path[1:].split("/"))
    if "" in segments[:-1]:
        raise PathError("a path must not have empty segments")
    names = []
    for segment in segments:
        if "{" not in segment and "}" not in segment:
            continue
        name = segment[1:-1]
        if not (segment.startswith("{") and segment.endswith("}")) or not name.isidentifier():
            raise PathError(f"a parameter must be a whole segment, such as {{id}}; {segment} is not")
        if name in names:
            raise PathError(f"the path has the parameter {name} twice")
        names.append(name)
    if unquote(segments[0]) in RESERVED:
        raise PathError(f"/{unquote(segments[0])} is reserved for the gateway itself")
    return tuple(segment if is_parameter(segment) else unquote(segment) for segment in segments)


def is_parameter(segment: str) -> bool:
    return segment.startswith("{") and segment.endswith("}")


def parameter_names(segments: tuple[str, ...]) -> list[str]:
    return [segment[1:-1] for segment in segments if is_parameter(segment)]


def route_key(method: str, segments: tuple[str, ...]) -> tuple[str, tuple[str | None, ...]]:
    """The identity of a route: its method, its literal segments, and the positions of its parameters, but not their names."""
    return method, tuple(None if is_parameter(segment) else segment for segment in segments)


def operation_name(method: str, segments: tuple[str, ...]) -> str:
    """A name for an endpoint that does not set one: `get_flights_by_flight_id_briefing`."""
    words = [method.lower(), *(f"by_{segment[1:-1]}" if is_parameter(segment) else segment for segment in segments)]
    return "_".join("".join(char if char.isalnum() else "_" for char in word).strip("_") for word in words if word)
