"""Serves /docs, /redoc and their files. The pages load nothing from other hosts, and their content security policy forbids it."""

import hashlib
from importlib.resources import files
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anabranch.errors import NotFound

_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_CACHED: Final = "public, max-age=86400"
_VENDORED: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "redoc.standalone.js": "text/javascript",
    "swagger-ui.LICENSE.txt": "text/plain",
    "swagger-ui.NOTICE.txt": "text/plain",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain",
    "redoc.LICENSE.txt": "text/plain",
    "redoc.standalone.js.LICENSE.txt": "text/plain",
}
_START_SWAGGER: Final = b"""SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true, displayRequestDuration: true,
  validatorUrl: null, presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout",
});
"""
_SWAGGER: Final = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>API</title>
<link rel="icon" href="docs/static/favicon-32x32.png"><link rel="stylesheet" href="docs/static/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><noscript>This page needs JavaScript. The API description is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/static/swagger-ui-bundle.js"></script><script src="docs/static/start-swagger.js"></script></body></html>
"""
_REDOC: Final = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>API</title>
<link rel="icon" href="docs/static/favicon-32x32.png"></head>
<body style="margin:0"><redoc spec-url="openapi.json"></redoc>
<noscript>This page needs JavaScript. The API description is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/static/redoc.standalone.js"></script></body></html>
"""


class _File(msgspec.Struct, frozen=True):
    content: bytes
    media_type: str
    etag: str


def routes() -> list[Route]:
    """Routes of the pages and their files. The files are read into memory here (3 MB). An unknown file name raises NotFound."""
    folder = files("anabranch.describe") / "static"
    static = {name: _file((folder / name).read_bytes(), media_type) for name, media_type in _VENDORED.items()}
    static["start-swagger.js"] = _file(_START_SWAGGER, "text/javascript")

    async def show_file(request: Request) -> Response:
        file = static.get(request.path_params["name"])
        if file is None:
            raise NotFound("no file has this name")
        return cached(request, file.content, file.media_type, file.etag, _CACHED)

    async def show_swagger(request: Request) -> Response:
        return Response(_SWAGGER, headers={"content-security-policy": _CSP}, media_type="text/html")

    async def show_redoc(request: Request) -> Response:
        return Response(_REDOC, headers={"content-security-policy": _CSP}, media_type="text/html")

    return [
        Route("/docs", show_swagger, methods=["GET"]),
        Route("/redoc", show_redoc, methods=["GET"]),
        Route("/docs/static/{name}", show_file, methods=["GET"]),
    ]


def etag(content: bytes) -> str:
    """A strong entity tag, from the hash of the content."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def cached(request: Request, content: bytes, media_type: str, tag: str, cache_control: str) -> Response:
    """A response with the content, or 304 when the client already has it. **Source:** RFC 9110 section 13.1.2."""
    headers = {"etag": tag, "cache-control": cache_control, "x-content-type-options": "nosniff"}
    known = [known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def _file(content: bytes, media_type: str) -> _File:
    return _File(content, media_type, etag(content))
