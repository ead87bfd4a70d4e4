"""Asks the admin server of a running gateway, for commands."""

import json
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

_TIMEOUT_S: Final = 5.0


class AdminError(Exception):
    """The admin server could not be asked, or refused. The message is a sentence for the operator."""


def ask(
    url: str, path: str, token: str | None, *, method: str = "GET", timeout_s: float = _TIMEOUT_S, reported: frozenset[int] = frozenset()
) -> dict[str, Any]:
    """The JSON that the admin server at `url` answers with. `reported`: statuses whose answer is a report as that of 200 is. Raises AdminError."""
    if not url.startswith(("http://", "https://")):
        raise AdminError(f"{url} is not an HTTP URL; set --url to that of the admin server, such as http://127.0.0.1:9090")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = Request(url.rstrip("/") + path, headers=headers, method=method)  # noqa: S310 - checked above
    try:
        # Ignore proxy settings: they are meant for external addresses.
        with build_opener(ProxyHandler({})).open(request, timeout=timeout_s) as answer:
            report: dict[str, Any] = json.load(answer)
    except HTTPError as error:
        if error.code in reported:
            found: dict[str, Any] = json.load(error)
            return found
        raise AdminError(f"{url} answered {error.code}; {_hint(error)}") from None
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise AdminError(f"cannot reach {url}: {reason}; the gateway has an admin server only if ANABRANCH_ADMIN_PORT is set") from None
    return report


def _hint(error: HTTPError) -> str:
    """What to do, or what the admin server says."""
    if error.code == 401:
        return "set ANABRANCH_ADMIN_TOKEN to its token"
    try:
        detail = json.load(error)["detail"] if error.code == 400 else None
    except (ValueError, KeyError, TypeError, OSError):
        detail = None
    return detail if isinstance(detail, str) else "is this the admin server's address?"
