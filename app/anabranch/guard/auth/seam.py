"""The interface of a way to prove an identity."""

from typing import Protocol

from anabranch.core.certificate import ClientCertificate
from anabranch.core.principal import Principal


class Presented(Protocol):
    """What a client has presented. `headers`: by lower-case name, repeated fields joined. `query`: as sent. `certificate`: of the connection, verified; None: it has none."""

    @property
    def headers(self) -> dict[bytes, bytes]: ...

    @property
    def query(self) -> bytes: ...

    @property
    def certificate(self) -> ClientCertificate | None: ...


class InvalidCredential(Exception):
    """The client has sent a credential that is not valid. `reason`: for logs and metrics, one of a few words such as `expired`; clients never see it, so that they
    cannot probe. `challenge`: parameters of the scheme in `WWW-Authenticate` (RFC 9110 section 11.6.1), such as `error="invalid_token"`.
    """

    def __init__(self, reason: str, challenge: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.challenge = challenge


class CannotAuthenticate(Exception):
    """Whether the credential is valid cannot be found out at the moment: the authority is away. The request is answered with 503. `reason`: as above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Authenticator(Protocol):
    """Made once for each authentication of a document. It may also be an async context manager, opened with the service of its document, and `core.metric.Sampled`.

    `challenge`: in `WWW-Authenticate`, a scheme with its parameters such as `Bearer realm="gateway"` (RFC 9110 section 11.6.1).
    """

    @property
    def challenge(self) -> str: ...

    def recall(self, presented: Presented) -> Principal | None:
        """The principal of a credential that was verified before and is still valid; None for any other. At most a look-up."""
        ...

    def is_presented(self, presented: Presented) -> bool:
        """Whether a credential of this kind was presented, valid or not."""
        ...

    async def authenticate(self, presented: Presented) -> Principal | None:
        """The principal; None when no credential of this kind was presented. Raises InvalidCredential and CannotAuthenticate."""
        ...
