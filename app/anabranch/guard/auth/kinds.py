"""The kinds of authentication. To add one: a model in `config.auth`, a module here with `build`, and a line in `KINDS`."""

from collections.abc import Callable
from typing import Any, Final

from anabranch.config.auth import JWT, MTLS, APIKeys, Basic, Introspection, Kind
from anabranch.guard.auth import api_key, basic, introspection, jwt, mtls
from anabranch.guard.auth.seam import Authenticator
from anabranch.guard.tools import Tools

KINDS: Final[dict[type[Kind], Callable[[str, Any, Tools], Authenticator]]] = {
    APIKeys: api_key.build,
    Basic: basic.build,
    Introspection: introspection.build,
    JWT: jwt.build,
    MTLS: mtls.build,
}
"""What builds an authenticator, from its name in the document and its model there."""


def build_authenticator(name: str, source: Kind, tools: Tools) -> Authenticator:
    return KINDS[type(source)](name, source, tools)
