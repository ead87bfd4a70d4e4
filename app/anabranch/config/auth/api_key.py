"""API keys in the document."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from anabranch.config.auth.kind import Kind
from anabranch.config.base import JSON, HeaderName, Model
from anabranch.config.text import data_of

_OF_NOTHING: Final = sha256(b"").hexdigest()
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
_COOKIE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER: Final = "x-api-key"


def _keys(value: Any) -> Any:
    """Keys as the document writes them: a list, a mapping by name, or the text of a file with one of these."""
    if not isinstance(value, str):
        return _listed(value)
    entries = _listed(data_of(value))
    return [_of_file(entry, number) for number, entry in enumerate(entries, 1)] if isinstance(entries, list) else entries


def _listed(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(key, dict) for key in value.values()):
        return [{"name": name, **key} for name, key in value.items()]
    return value


class APIKey(Model):
    """One key. A client may have several, so that it can change from one to the next."""

    name: str = Field(min_length=1, max_length=256)
    """The client that has the key: `{auth.sub}` and `{auth.name}`."""
    sha256: str
    """SHA-256 of the key, in hexadecimal: `printf %s KEY | sha256sum`. The key itself is in no file of the gateway."""
    metadata: dict[str, JSON] = {}
    """What else is known of the client: `{auth.claims}`."""
    expiry: str | None = None
    """When the key becomes invalid: a date, or a date and time with a time zone (RFC 3339), such as `2027-01-31` or `2027-01-31T12:00:00Z`. If unset, never."""
    disabled: bool = False
    """Reject the key."""

    @field_validator("sha256")
    @classmethod
    def _is_digest(cls, value: str) -> str:
        if not _SHA256.fullmatch(value):
            raise ValueError("must be the SHA-256 of the key in hexadecimal, and not the key: `printf %s KEY | sha256sum`")
        if value.lower() == _OF_NOTHING:
            raise ValueError("is the SHA-256 of an empty text: every client that sends an empty key would come in")
        return value.lower()

    @field_validator("expiry")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None:
            _time(value)
        return value

    @property
    def expires_at(self) -> float:
        """Seconds since the epoch; infinite without an expiry."""
        return float("inf") if self.expiry is None else _time(self.expiry)


def _of_file(entry: Any, number: int) -> APIKey:
    """One key of a file. Raises ValueError, whose message names the entry and its known keys, and no content."""
    try:
        return APIKey.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    where = f"entry {number} of the file"
    name = next((part for part in first["loc"] if part in APIKey.model_fields), None)
    if first["type"] == "missing":
        raise ValueError(f"{where} has no `{name}`")
    if first["type"] == "value_error":
        raise ValueError(f"{where}, `{name}`: {first['ctx']['error']}")
    if name is not None:
        raise ValueError(f"{where}: its `{name}` is not valid")
    known = ", ".join(f"`{key}`" for key in APIKey.model_fields)
    raise ValueError(f"{where} has an unknown key; there are {known}" if isinstance(entry, Mapping) else f"{where} is not a mapping")


def _time(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a date such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z") from None
    if found.tzinfo is None:
        if len(text) > len("2027-01-31"):
            raise ValueError("a time needs its zone, such as 2027-01-31T12:00:00Z")
        found = found.replace(tzinfo=UTC)
    return found.timestamp()


Keys = Annotated[
    list[APIKey],
    BeforeValidator(_keys),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array"}]}),
]


class APIKeys(Kind):
    """Secrets that clients send. The gateway knows only their digests."""

    header: HeaderName | None = None
    """The header field with the key. If neither this nor `query` nor `cookie` is set, `x-api-key`."""
    query: str | None = Field(None, min_length=1)
    """The query parameter with the key. Addresses are logged in many places: prefer a header field."""
    cookie: str | None = None
    """The cookie with the key."""
    keys: Keys
    """The keys: a list, a mapping by client, or `${file:keys.yaml}`, a file with one of these in YAML or JSON."""

    @model_validator(mode="after")
    def _consistent(self) -> "APIKeys":
        if sum(place is not None for place in (self.header, self.query, self.cookie)) > 1:
            raise ValueError("a key stands either in a `header`, in the `query` or in a `cookie`")
        if self.cookie is not None and not _COOKIE.fullmatch(self.cookie):
            raise ValueError("the name of a cookie has letters, digits and symbols such as `-`, `.` and `_`")
        digests = [key.sha256 for key in self.keys]
        for index, key in enumerate(self.keys):
            if key.sha256 in digests[:index]:
                raise ValueError(f"two entries have the same key, the second one is that of `{key.name}`")
        return self

    @property
    def place(self) -> tuple[str, str]:
        """Where the key stands, as OpenAPI calls it (section 4.8.27.1), and its name there."""
        if self.query is not None:
            return "query", self.query
        return ("cookie", self.cookie) if self.cookie is not None else ("header", (self.header or HEADER).lower())

    @property
    def credential_fields(self) -> list[str]:
        where, name = self.place
        return [name] if where == "header" else ["cookie"] if where == "cookie" else []

    @property
    def credential_parameters(self) -> list[str]:
        return [] if self.query is None else [self.query]

    def scheme(self) -> dict[str, Any]:
        where, name = self.place
        return {"type": "apiKey", "in": where, "name": name}
