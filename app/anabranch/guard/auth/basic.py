"""Name and password, checked off the event loop: a password hash is slow on purpose.

**Source:** RFC 7617.
"""

import asyncio
import binascii
import hmac
import secrets
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Final, Self

from anabranch.config.auth.basic import Basic, users_of
from anabranch.core.principal import Principal
from anabranch.errors import MissingExtraError
from anabranch.guard.auth.seam import CannotAuthenticate, InvalidCredential, Presented
from anabranch.guard.tools import Tools

_THREADS: Final = 2
_MOST_PENDING: Final = 64
_REMEMBERED: Final = 1024
_REMEMBERED_S: Final = 300.0
_MOST_BYTES: Final = 1024
_BCRYPT_BYTES: Final = 72
"""The part of a password that bcrypt hashes."""

Verify = Callable[[bytes], bool]


class BasicAuthenticator:
    """An async context manager. A pair that was verified is remembered for five minutes, as a keyed digest."""

    def __init__(self, name: str, source: Basic, clock: Callable[[], float]) -> None:
        self.challenge = f'Basic realm="{source.realm}", charset="UTF-8"'
        self._name = name
        self._clock = clock
        self._verifiers = {user.encode(): _verifier(digest) for user, digest in users_of(source.users).items()}
        self._known = tuple(self._verifiers.values())
        self._secret = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(_THREADS, "anabranch-passwords")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def recall(self, presented: Presented) -> Principal | None:
        pair = _sent(presented)
        return None if not pair else self._recall(self._digest(pair))

    def is_presented(self, presented: Presented) -> bool:
        return _sent(presented) is not None

    async def authenticate(self, presented: Presented) -> Principal | None:
        pair = _sent(presented)
        if pair is None:
            return None
        user, colon, password = pair.partition(b":")
        if not colon or len(pair) > _MOST_BYTES:
            raise InvalidCredential("malformed")
        digest = self._digest(pair)
        principal = self._recall(digest)
        if principal is not None:
            return principal
        if not await self._is_right(digest, user, password):
            raise InvalidCredential("wrong")
        return self._remember(digest, user)

    def _digest(self, pair: bytes) -> bytes:
        return hmac.digest(self._secret, pair, sha256)

    def _recall(self, digest: bytes) -> Principal | None:
        found = self._remembered.get(digest)
        return None if found is None or found[1] <= self._clock() else found[0]

    def _remember(self, digest: bytes, user: bytes) -> Principal:
        name = user.decode()
        principal = Principal(name, name, self._name)
        self._remembered[digest] = principal, self._clock() + _REMEMBERED_S
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    def _of_nobody(self, user: bytes) -> Verify:
        """What is computed for an unknown name: as much as for one of the users, whose hashes may differ in cost, and always the same for this name."""
        known = self._known
        return known[int.from_bytes(self._digest(user)) % len(known)] if known else lambda _: False

    async def _is_right(self, digest: bytes, user: bytes, password: bytes) -> bool:
        """Whether this is the user's password. Requests with the same pair share one check."""
        pending = self._pending.get(digest)
        if pending is None:
            if self._threads is None or len(self._pending) >= _MOST_PENDING:
                raise CannotAuthenticate("busy")
            verify = self._verifiers.get(user) or self._of_nobody(user)
            pending = asyncio.wrap_future(self._threads.submit(verify, password))
            self._pending[digest] = pending
            pending.add_done_callback(lambda _: self._pending.pop(digest, None))
        # Awaiting it directly would cancel it with the caller.
        await asyncio.wait([pending])
        if pending.cancelled():
            raise CannotAuthenticate("closed")
        return pending.result() and user in self._verifiers


def _sent(presented: Presented) -> bytes | None:
    """Name and password with the colon between; b"" when they cannot be read; None without any."""
    field = presented.headers.get(b"authorization")
    if field is None or field[:6].lower() != b"basic ":
        return None
    try:
        return b64decode(field[6:].strip(b" "), validate=True)
    except binascii.Error:
        return b""


def _verifier(digest: str) -> Verify:
    """What compares a password with a hash. Raises MissingExtraError without the library."""
    return _of_argon2(digest) if digest.startswith("$argon2") else _of_bcrypt(digest)


def _of_bcrypt(digest: str) -> Verify:
    try:
        import bcrypt  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("basic", "basic") from None
    expected = digest.encode()

    def verify(password: bytes) -> bool:
        try:
            return bcrypt.checkpw(password[:_BCRYPT_BYTES], expected)
        except ValueError:  # a NUL in the password
            return False

    return verify


def _of_argon2(digest: str) -> Verify:
    try:
        import argon2  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("basic", "basic") from None
    hasher = argon2.PasswordHasher()

    def verify(password: bytes) -> bool:
        try:
            return hasher.verify(digest, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    return verify


def build(name: str, source: Basic, tools: Tools) -> BasicAuthenticator:
    return BasicAuthenticator(name, source, tools.clock)
