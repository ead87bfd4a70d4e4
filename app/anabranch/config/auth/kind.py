"""What all kinds of authentication have in common."""

from abc import abstractmethod
from typing import Any, ClassVar

from anabranch.config.base import Model


class Kind(Model):
    """A way in which clients prove who they are."""

    has_token: ClassVar[bool] = False
    """Whether the credential is a token that can be passed on to services."""

    @property
    def credential_fields(self) -> list[str]:
        """Names of the header fields with the credential. They are passed on only by name, and never recorded."""
        return []

    @property
    def credential_parameters(self) -> list[str]:
        """Names of the query parameters with the credential; the same holds for them."""
        return []

    @abstractmethod
    def scheme(self) -> dict[str, Any]:
        """Its security scheme in OpenAPI 3.1 (section 4.8.27)."""
