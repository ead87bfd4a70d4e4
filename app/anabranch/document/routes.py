"""Imports the Python routers that a document names, and checks their routes against the document: those that no request would ever reach are
problems."""

import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastapi import APIRouter
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import WebSocketRoute

from anabranch.compute.hooks import SEARCHED
from anabranch.config.auth import access_of
from anabranch.config.problems import Problems, did_you_mean
from anabranch.document.authenticated import asked_of
from anabranch.plan.model import DocumentPlan, EndpointPlan
from anabranch.plan.routes import RESERVED, Segment, split_path


def import_routers(names: list[str], problems: Problems) -> list[tuple[int, APIRouter]]:
    """Import the routers that a document names, each as `module:attribute`. Returns them with their index."""
    routers: list[tuple[int, APIRouter]] = []
    for index, name in enumerate(names):
        module, _, attribute = name.partition(":")
        at = ("routers", index)
        if not module or not attribute:
            problems.add(at, "a router is written as module:attribute", value=name)
            continue
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            problems.add(
                at,
                f"there is no module {error.name}",
                value=name,
                hint=SEARCHED,
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's module does when it is imported
            problems.add(at, f"the module {module} cannot be imported: {type(error).__name__}: {error}", value=name)
        else:
            found: Any = getattr(imported, attribute, None)
            if isinstance(found, APIRouter):
                routers.append((index, found))
            elif found is None:
                problems.add(at, f"the module {module} has no {attribute}", value=name)
            else:
                problems.add(at, f"{name} must be a fastapi.APIRouter, not of type {type(found).__name__}")
    return routers


def check_routes(routers: Sequence[tuple[int, APIRouter]], plan: DocumentPlan, problems: Problems) -> None:
    """Report the routes that are never reached. `routers`: with their index in the document.

    A path belongs to the document's endpoints whatever the method (decision 6), so a route is never reached if an endpoint matches every path
    that it matches.
    """
    default = access_of(plan.source.defaults.auth)
    for index, router in routers:
        at = ("routers", index)
        _check_clients(router, at, plan, problems, has_default=default is not None)
        for path, is_websocket in _routes(router):
            segments = path.split("/")[1:]
            if is_websocket:
                problems.add(
                    at,
                    f"the WebSocket route {path} is never reached: the gateway does not accept WebSocket connections",
                    hint="remove it, and serve it from a process of its own",
                )
            elif segments and segments[0] in RESERVED:
                problems.add(at, f"the route {path} is never reached: /{segments[0]} is reserved for the gateway itself")
            elif (endpoint := next((one for one in plan.endpoints if _covers(one, segments)), None)) is not None:
                problems.add(
                    at,
                    f"the route {path} is never reached: the endpoint {endpoint.method} {endpoint.path} has the path, whatever the method",
                    hint="give one of them another path",
                )


def _check_clients(router: APIRouter, at: tuple[str, int], plan: DocumentPlan, problems: Problems, *, has_default: bool) -> None:
    """Report what its routes ask of clients that the document does not have, and routes that ask nothing where the endpoints of the document do."""
    open_to_all: list[str] = []
    reported: set[str] = set()
    for route in iter_route_contexts(router.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        asked = list(asked_of(route.dependant))
        if not asked:
            open_to_all.append(route.path or "")
        for name in dict.fromkeys(name for one in asked for name in one.names or ("",)):
            if name in reported or (has_default if not name else name in plan.auth):
                continue
            reported.add(name)
            if name:
                hint = did_you_mean(name, list(plan.auth))
                problems.add(at, f"the route {route.path} asks for an unknown authentication `{name}`", hint=hint or "add it to `auth`")
            else:
                problems.add(at, f"the route {route.path} asks for the default authentication, and `defaults.auth` is not set")
    if has_default and open_to_all:
        message = (
            f"`defaults.auth` is not for routes in Python, and {len(open_to_all)} of them ask nobody who they are, such as {open_to_all[0]}"
        )
        problems.add(at, message, hint="add the dependency `authenticated()`", is_warning=True)


def _routes(router: APIRouter) -> Iterator[tuple[str, bool]]:
    """The path of each route of a router and of those that it includes, and whether it is a WebSocket's. Mounted applications are left out: what
    they serve is unknown."""
    for route in iter_route_contexts(router.routes):
        is_websocket = isinstance(route.original_route, WebSocketRoute)
        if route.path and (is_websocket or getattr(route.original_route, "methods", None)):
            yield route.path, is_websocket


def _covers(endpoint: EndpointPlan, segments: Sequence[str]) -> bool:
    """Whether the endpoint matches every path that a route with these segments matches."""
    for index, own in enumerate(endpoint.segments):
        if own.is_rest:
            rest = segments[index:]
            return bool(rest) and _is_one_segment(rest[0]) and not any(segment in (".", "..") for segment in rest)
        if index == len(segments) or not _covers_segment(own, segments[index]):
            return False
    return len(segments) == len(endpoint.segments)


_CONVERTER: Final = re.compile(r":\w+}")


def _covers_segment(own: Segment, segment: str) -> bool:
    if own.is_static:
        return own.literals[0] == segment
    if not own.is_mixed:
        return _is_one_segment(segment)
    if "{" not in segment:
        return own.split(segment) is not None
    (other,) = split_path(f"/{_CONVERTER.sub('}', segment)}")
    return own.shape == other.shape and _is_one_segment(segment)


def _is_one_segment(segment: str) -> bool:
    """Whether a segment of a route in Python matches only what a parameter of an endpoint matches: one segment that is not empty."""
    if "{" not in segment:
        return segment not in ("", ".", "..")
    return ":path}" not in segment
