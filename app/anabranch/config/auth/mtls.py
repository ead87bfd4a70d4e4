"""Client certificates in the document."""

from typing import Any, Literal

from anabranch.config.auth.kind import Kind


class MTLS(Kind):
    """The certificate with which a client has opened its connection (mutual TLS). The settings `ANABRANCH_TLS_*` say which authorities' certificates are accepted."""

    subject: Literal["dn", "cn", "dns", "uri"] = "dn"
    """What identifies the client, and becomes `{auth.sub}`: `dn`: the subject's distinguished name, such as `CN=shop,O=Example` (RFC 4514); `cn`: its common name; `dns`, `uri`: the first DNS
    name or URI among the subject alternative names, such as a SPIFFE id. A certificate without it is rejected."""

    def scheme(self) -> dict[str, Any]:
        return {"type": "mutualTLS"}
