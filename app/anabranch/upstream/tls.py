"""Builds SSL contexts from the document's `tls` settings, and describes failed handshakes.

Reads the PEM files when the document is loaded. Upstreams with the same settings share a context, because building one reads the system's
certificate authorities (about 20 ms).
"""

import ssl
from typing import Final

from anabranch.config.model import TLS
from anabranch.errors import TLSError

HTTP_1: Final = ("http/1.1",)

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

# X509_V_ERR_* of OpenSSL's x509_vfy.h. OpenSSL's own messages are not used: some contain the host name.
_VERIFY_REASONS: Final = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate chain ends in a self-signed certificate that is not trusted",
    20: "the certificate's issuer is not trusted",
    21: "the certificate's issuer is not trusted",
    23: "the certificate has been revoked",
    62: "hostname mismatch: the certificate is for another name",
    64: "hostname mismatch: the certificate is for another IP address",
}
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": "the service does not speak TLS on this port",
    "HTTP_REQUEST": "the service does not speak TLS on this port",
    "PACKET_LENGTH_TOO_LONG": "the service does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the service does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the service offers only TLS versions that are too old",
    "NO_PROTOCOLS_AVAILABLE": "the service offers only TLS versions that are too old",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the service offers only TLS versions that are too old",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the service requires a client certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the service rejected the handshake: no common cipher, or it requires a client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the service rejected our client certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the service rejected our client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the service rejected our client certificate: it has expired",
    "TLSV1_ALERT_UNKNOWN_CA": "the service rejected our client certificate: its issuer is unknown to the service",
    "TLSV1_UNRECOGNIZED_NAME": "the service does not know the server name",
}


class TLSContexts:
    """Builds contexts and shares them between upstreams with the same settings. Create one for each load of the document, so that a reload
    reads renewed files.
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[TLS, tuple[str, ...]], ssl.SSLContext] = {}

    def get(self, tls: TLS | None, alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """The context for `tls` (None: the defaults), offering the ALPN protocols `alpn`.

        Raises ValueError with a sentence for the operator if a file cannot be read or has the wrong content.
        """
        # The server name is an argument of the handshake, not part of a context.
        key = ((tls or TLS()).model_copy(update={"server_name": None}), alpn)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = _build(key[0], alpn)
        return context


def _build(tls: TLS, alpn: tuple[str, ...]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except OSError as error:
        raise ValueError(_unreadable("tls.ca", tls.ca, error, "certificates in PEM form")) from error
    context.minimum_version = _VERSIONS[tls.min_version]
    context.set_alpn_protocols(list(alpn))
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is None:
        if tls.key is not None:
            raise ValueError("tls.key is set without tls.cert: set tls.cert to the client certificate")
        return context
    try:
        # Without a callback, OpenSSL would ask for the password of an encrypted key on the terminal.
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except OSError as error:
        raise ValueError(_unreadable("tls.cert and tls.key", tls.cert, error, "a certificate and its private key in PEM form")) from error
    return context


def _no_password() -> str:
    raise OSError(0, "the private key is encrypted; store it without a password")


def _unreadable(field: str, path: str | None, error: OSError, expected: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{field}: {path} does not contain {expected}, or they do not match"
    return f"{field}: {error.filename or path} cannot be read: {error.strerror or 'unknown reason'}"


def tls_error(error: BaseException, *, may_be_processed: bool = False) -> TLSError:
    """The error for a failed handshake. Its message contains no host name, no address and no text of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _VERIFY_REASONS.get(error.verify_code, "the certificate was not accepted")
    elif isinstance(error, ssl.SSLError):
        reason = _REASONS.get((getattr(error, "reason", None) or "").upper(), "the TLS handshake failed")
    else:
        reason = "the service closed the connection during the TLS handshake"
    return TLSError(reason, may_be_processed=may_be_processed)
