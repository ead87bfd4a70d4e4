"""API keys in the document."""

from anabranch.config.base import HeaderName, Model, Name


class APIKey(Model):
    """One client's key."""

    sha256: str
    """SHA-256 of the key, in hexadecimal. The key itself is not in the document."""


class APIKeys(Model):
    """Secrets that clients send in a header field. The document has only their digests."""

    header: HeaderName = "x-api-key"
    """The header field."""
    keys: dict[Name, APIKey]
    """The clients' keys, by name."""

    @property
    def request_fields(self) -> tuple[str, ...]:
        """The header fields in which a client may send such a credential."""
        return (self.header,)
