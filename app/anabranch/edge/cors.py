"""Cross-origin requests from browsers: the document's rules, around an application and on answers that are made without one.

**Source:** the Fetch standard, section 3.2 (CORS protocol).
"""

import re
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from anabranch.config.model import CORS


class CrossOrigin:
    """The rules of one document."""

    def __init__(self, rules: CORS) -> None:
        self._rules = rules
        self._judge = self.around(_nothing)

    def around(self, app: ASGIApp) -> CORSMiddleware:
        """`app`, with preflights answered and the fields of the rules on every response."""
        rules = self._rules
        patterns = [origin for origin in rules.allow_origins if "*" in origin and origin != "*"]
        return CORSMiddleware(
            app,
            allow_origins=[origin for origin in rules.allow_origins if origin not in patterns],
            allow_origin_regex=_expression(patterns),
            allow_methods=rules.allow_methods,
            allow_headers=rules.allow_headers,
            allow_credentials=rules.allow_credentials,
            expose_headers=rules.expose_headers,
            max_age=int(rules.max_age_s),
        )

    def fields(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """The fields of a response to a request with this `Origin` that does not come from an application."""
        headers = MutableHeaders()
        judge = self._judge
        text = None if origin is None else origin.decode("latin-1")
        if text is not None:
            headers.update(judge.simple_headers)
        if text is not None and judge.is_allowed_origin(text) and (not judge.allow_all_origins or judge.allow_credentials):
            judge.allow_explicit_origin(headers, text)
        else:
            headers["vary"] = "Origin"
        return headers.raw


def _expression(patterns: Iterable[str]) -> str | None:
    """A regular expression for origins such as `https://*.shop.example`: every name below that host, but not the host itself."""
    return "|".join(re.escape(pattern).replace(re.escape("*"), r"[a-z0-9.-]+") for pattern in patterns) or None


async def _nothing(*_: Any) -> None:
    raise AssertionError("only the rules are used")
