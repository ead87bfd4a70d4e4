"""Who the client is, once a guard has proven it."""

import math
from hashlib import sha256

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """The client of a request. `sub`: its identifier, unique in `via`. `name`: human-readable; the same as `sub` where nothing else is known. `via`: the name of the
    document's authentication that has proven it. `claims`: what is known of it, a JSON object as text. `credential`: what proves it to services that demand the
    same proof, such as a bearer token; b"" where it cannot be passed on. It is in no message, record or representation. `expires_at`: seconds since the epoch.

    `identity`: the same for all requests of one principal, and different for any two of them. `exact`: the same principal, whose identity is that of this one
    credential: two tokens of one client may allow different things. `value`: what `{auth}` refers to, as JSON text.
    """

    sub: str
    name: str
    via: str
    claims: bytes = b"{}"
    credential: bytes = b""
    expires_at: float = math.inf
    identity: bytes = b""
    value: bytes = b""

    def __post_init__(self) -> None:
        known = {"sub": self.sub, "name": self.name, "via": self.via, "claims": msgspec.Raw(self.claims)}
        set_ = msgspec.structs.force_setattr
        set_(self, "value", msgspec.json.encode(known))
        # The length keeps a name and a subject apart, whatever they contain.
        set_(self, "identity", f"{len(self.via)}:{self.via}{self.sub}".encode())

    @property
    def exact(self) -> "Principal":
        found = msgspec.structs.replace(self)
        msgspec.structs.force_setattr(found, "identity", self.identity + b"\0" + sha256(self.credential).digest())
        return found

    def __repr__(self) -> str:
        return f"Principal(sub={self.sub!r}, via={self.via!r})"
