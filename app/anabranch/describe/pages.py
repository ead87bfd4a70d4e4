"""The pages under /problems/: one for each error code, as HTML and as JSON. Built once, from the error tree."""

from collections.abc import Callable
from html import escape
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anabranch import errors
from anabranch.core.forwarding import public_prefix
from anabranch.describe.advice import ADVICE, Advice
from anabranch.errors import AnabranchError, NotFound

_CSP: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1c2733;background:#fff}"
    "code{font-family:ui-monospace,monospace}dt{font-weight:600;margin-top:1rem}dd{margin:0}"
    "@media(prefers-color-scheme:dark){body{color:#dde5ec;background:#12181f}a{color:#7db8ff}}"
)
_UNKNOWN: Final = Advice("No further description.", "Read `detail`.", "Search the log for the request id.")


def error_classes() -> dict[str, type[AnabranchError]]:
    """The classes of the error tree, by code. Of classes that share a code, the one nearest to the root."""
    classes: dict[str, type[AnabranchError]] = {}
    for thing in vars(errors).values():
        if isinstance(thing, type) and issubclass(thing, AnabranchError):
            known = classes.get(thing.code)
            if known is None or issubclass(known, thing):
                classes[thing.code] = thing
    return classes


def routes() -> list[Route]:
    """Routes of the index and the pages. An unknown code raises NotFound, which the application's exception handler answers."""
    classes = error_classes()
    pages = {code: _html_page(code, kind) for code, kind in classes.items()}
    index = _html_index(classes)

    async def show_index(request: Request) -> Response:
        return _negotiated(request, index, lambda prefix: [_facts(code, kind, prefix) for code, kind in classes.items()])

    async def show(request: Request) -> Response:
        code = request.path_params["code"]
        if code not in pages:
            raise NotFound("no problem has this code; /problems lists them all")
        return _negotiated(request, pages[code], lambda prefix: _facts(code, classes[code], prefix))

    return [Route("/problems", show_index, methods=["GET"]), Route("/problems/{code}", show, methods=["GET"])]


def _negotiated(request: Request, page: bytes, facts: Callable[[str], object]) -> Response:
    """JSON if `Accept` contains JSON and not HTML; otherwise HTML. `facts`: takes the path below which the client sees the gateway."""
    accept = request.headers.get("accept", "").lower()
    headers = {"cache-control": "public, max-age=3600", "vary": "accept, x-forwarded-prefix"}
    if "json" in accept and "html" not in accept:
        forwarded = request.headers.get("x-forwarded-prefix")
        prefix = public_prefix(None if forwarded is None else forwarded.encode("latin-1"), request.scope.get("root_path", ""))
        return Response(orjson.dumps(facts(prefix)), headers=headers, media_type="application/json")
    return Response(page, headers={**headers, "content-security-policy": _CSP}, media_type="text/html")


def _status(kind: type[AnabranchError]) -> int | None:
    """The status of a response with this error; None if it depends on the upstream, or if no request is ever answered with the error."""
    if issubclass(kind, errors.UpstreamStatus | errors.ConfigError | errors.MissingExtraError):
        return None
    return kind.status


def _facts(code: str, kind: type[AnabranchError], prefix: str) -> dict[str, object]:
    advice = ADVICE.get(code, _UNKNOWN)
    return {
        "type": f"{prefix}/problems/{code}",
        "code": code,
        "title": kind.title,
        "status": _status(kind),
        "meaning": advice.meaning,
        "client": advice.client,
        "operator": advice.operator,
    }


def _html_page(code: str, kind: type[AnabranchError]) -> bytes:
    advice = ADVICE.get(code, _UNKNOWN)
    status = _status(kind)
    rows = [
        ("Code", f"<code>{escape(code)}</code>"),
        *([("Status", str(status))] if status is not None else []),
        ("What it means", _marked(advice.meaning)),
        ("What a client can do", _marked(advice.client)),
        ("What the operator can do", _marked(advice.operator)),
    ]
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return _html(kind.title, f'<h1>{escape(kind.title)}</h1><dl>{items}</dl><p><a href="../problems">All problems</a></p>')


def _html_index(classes: dict[str, type[AnabranchError]]) -> bytes:
    items = "".join(
        f'<dt><a href="problems/{escape(code)}"><code>{escape(code)}</code></a></dt><dd>{escape(kind.title)}</dd>'
        for code, kind in classes.items()
    )
    return _html("Problems", f"<h1>Problems</h1><p>All error codes of this gateway.</p><dl>{items}</dl>")


def _html(title: str, body: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    ).encode()


def _marked(text: str) -> str:
    """`text` as HTML: escaped, with text between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
