"""API keys: a secret in a header field, of which the document knows the digest."""

from hashlib import sha256

from anabranch.config.auth.api_key import APIKeys
from anabranch.core.principal import Principal
from anabranch.guard.auth.seam import InvalidCredential, Presented
from anabranch.guard.tools import Tools


class APIKeyAuthenticator:
    """Finds the client by the digest of its key: a look-up among digests tells nothing of the keys by its duration."""

    challenge = ""

    def __init__(self, name: str, source: APIKeys) -> None:
        self._field = source.header.lower().encode()
        self._principals = {key.sha256.lower(): Principal(client, client, name) for client, key in source.keys.items()}

    def recall(self, presented: Presented) -> Principal | None:
        key = presented.headers.get(self._field)
        return None if key is None else self._principals.get(sha256(key).hexdigest())

    async def authenticate(self, presented: Presented) -> Principal | None:
        if self._field not in presented.headers:
            return None
        principal = self.recall(presented)
        if principal is None:
            raise InvalidCredential("unknown")
        return principal


def build(name: str, source: APIKeys, tools: Tools) -> APIKeyAuthenticator:
    return APIKeyAuthenticator(name, source)
