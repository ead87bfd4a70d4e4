"""TLS of the public port: the certificate of the gateway, and those that clients must show."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final, Self

from anabranch.core.tasks import cancel_and_wait
from anabranch.settings import Settings, wrong_setting

logger = logging.getLogger("anabranch.tls")

RENEW_EVERY_S: Final = 10.0
_CLIENTS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class ServerTLS:
    """The context of all connections. An async context manager: while it is open, it looks for renewed files and takes them up for new connections. The authorities of client certificates are read
    only once. Raises ConfigError when created with files that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        assert settings.tls_cert_file is not None
        self._cert, self._key = settings.tls_cert_file, settings.tls_key_file
        self._password = None if settings.tls_key_password is None else settings.tls_key_password.get_secret_value()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._watching: asyncio.Task[None] | None = None
        self._seen = self._state()
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise wrong_setting("TLS_CERT_FILE", f"the certificate and its key cannot be used: {_reason(error)}") from None
        if settings.tls_client_cert != "none":
            try:
                self.context.load_verify_locations(settings.tls_client_ca_file)
            except (OSError, ValueError) as error:
                raise wrong_setting(
                    "TLS_CLIENT_CA_FILE", f"the authorities of client certificates cannot be read: {_reason(error)}"
                ) from None
            self.context.verify_mode = _CLIENTS[settings.tls_client_cert]
            # An intermediate authority in the file is trusted by itself, without the root above it.
            self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="tls")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            await cancel_and_wait([self._watching])

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        """Take up files that have changed. Those that cannot be used are logged, and the old ones stay in force."""
        state = await asyncio.to_thread(self._state)
        if state == self._seen:
            return
        self._seen = state
        try:
            # A context takes a pair only as a whole, but keeps half of a broken one: the new pair is tried in another one first.
            await asyncio.to_thread(self._load_into, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            # Never in a thread: OpenSSL crashes when a context changes while a connection is made of it.
            self._load()
        except (OSError, ValueError) as error:
            logger.error("the renewed TLS certificate cannot be used, the old one stays in force: %s", _reason(error))  # noqa: TRY400 - the reason is the sentence
        else:
            logger.info("the renewed TLS certificate is in force for new connections")

    def _load(self) -> None:
        self._load_into(self.context)

    def _load_into(self, context: ssl.SSLContext) -> None:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(self._cert, self._key, self._password or "")

    def _state(self) -> list[tuple[int, int] | None]:
        return [_state_of(file) for file in (self._cert, self._key) if file is not None]


def open_tls(settings: Settings) -> ServerTLS | None:
    """TLS by the settings; None when clients come without. Raises ConfigError for settings that do not fit together."""
    named = [name for name in ("tls_key_file", "tls_key_password", "tls_client_ca_file") if getattr(settings, name) is not None]
    if settings.tls_cert_file is None:
        if named or settings.tls_client_cert != "none":
            name = (named or ["tls_client_cert"])[0].upper()
            raise wrong_setting(name, "has no effect without ANABRANCH_TLS_CERT_FILE")
        return None
    if settings.tls_client_cert != "none" and settings.tls_client_ca_file is None:
        raise wrong_setting("TLS_CLIENT_CA_FILE", "is missing: which authorities' client certificates are accepted?")
    if settings.tls_client_cert == "none" and settings.tls_client_ca_file is not None:
        raise wrong_setting("TLS_CLIENT_CA_FILE", "has no effect", hint="set ANABRANCH_TLS_CLIENT_CERT to optional or required")
    return ServerTLS(settings)


def _state_of(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is not that of the certificate"
        return "they are not a certificate and its key in PEM, or the password is wrong"
    return error.strerror or "it cannot be read" if isinstance(error, OSError) else "they are not in PEM"
