"""Basic authentication in the document."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from anabranch.config.auth.kind import Kind

_BCRYPT: Final = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_ARGON2: Final = re.compile(r"\$argon2(id|i|d)\$[^:\s]+")
_HOW: Final = "use bcrypt, `htpasswd -nB NAME`, or argon2id"


def users_of(text: str) -> dict[str, str]:
    """Hash of the password by user. Raises ValueError, whose message names lines and no content."""
    users: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        name, colon, digest = line.partition(":")
        if not colon or not name:
            raise ValueError(f"line {number} is not `name:hash`")
        if name in users:
            raise ValueError(f"line {number} names a user for the second time")
        if not _BCRYPT.fullmatch(digest) and not _ARGON2.fullmatch(digest):
            raise ValueError(f"line {number} has no hash that withstands guessing: {_HOW}")
        users[name] = digest
    return users


def _checked(text: str) -> str:
    users_of(text)
    return text


class Basic(Kind):
    """Name and password (RFC 7617). Use it only over TLS."""

    users: Annotated[str, AfterValidator(_checked), WithJsonSchema({"type": "string"})]
    """The users in the format of htpasswd, a line `name:hash` for each: `${file:users.htpasswd}`. Hashes are bcrypt (`htpasswd -nB NAME`) or argon2."""
    realm: str = Field("gateway", pattern=r'^[^"\\\x00-\x1f\x7f]+$')
    """What browsers show when they ask for the password."""

    @property
    def credential_fields(self) -> list[str]:
        return ["authorization"]

    def scheme(self) -> dict[str, Any]:
        return {"type": "http", "scheme": "basic"}
