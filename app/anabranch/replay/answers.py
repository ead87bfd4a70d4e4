"""Looks up services' answers in a journal by call, so that a gateway can run without its services.

The answers are stored in a private temporary database on disk that disappears with the process, so that memory does not grow with the
journal. The latest answer to a call wins; one with status 500 or above only if there is no better one.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import UNSET

from anabranch.config.journal import Redact
from anabranch.core.exchange import Address, Answer, BodySource, Request
from anabranch.errors import ConnectError
from anabranch.journal.reader import records
from anabranch.journal.record import Content, Record, Step, digested, kept
from anabranch.journal.redact import Redaction, UnreadableBody
from anabranch.plan.upstream import UpstreamPlan
from anabranch.settings import wrong_setting

logger = logging.getLogger("anabranch")

_TABLE: Final = "CREATE TABLE answers (key BLOB PRIMARY KEY, status INTEGER, headers BLOB, body BLOB) WITHOUT ROWID"
_PUT: Final = (
    "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
    " SET status = excluded.status, headers = excluded.headers, body = excluded.body WHERE excluded.status < 500 OR answers.status >= 500"
)
_GET: Final = "SELECT status, headers, body FROM answers WHERE key = ?"
_KEY_BYTES: Final = 16
_TOKEN: Final = Answer(
    200, [(b"content-type", b"application/json")], b'{"access_token":"recorded","token_type":"Bearer","expires_in":86400}'
)


class RecordedAnswers:
    """`calls`: number of different calls with an answer. An async context manager, which may be entered again. A lookup takes about as long as a
    file read, in a thread.

    `found`: reads the records.
    """

    def __init__(self, found: Callable[[], Iterable[Record]], redaction: Redaction) -> None:
        """Read all records. Blocking; handles about 30,000 steps a second."""
        self._found = found
        self._redaction = redaction
        self._open()

    def _open(self) -> None:
        self._thread = ThreadPoolExecutor(1, "recorded-answers")
        # An empty name means a temporary file that is already deleted. Its content need not survive a crash.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8192"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute(_TABLE)
        self._database.execute("BEGIN")
        self._database.executemany(_PUT, (row for record in self._found() for step in record.steps for row in _rows(step)))
        self._database.execute("COMMIT")
        ((self.calls,),) = self._database.execute("SELECT count(*) FROM answers")
        self._is_closed = False

    async def __aenter__(self) -> Self:
        if self._is_closed:
            await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def open(self, upstream: UpstreamPlan) -> "RecordedTransport":
        """What answers in place of an upstream, or of the authority that issues its tokens."""
        return RecordedTransport(self, upstream)

    async def find(self, upstream: str, request: Request) -> Answer | None:
        """Find the answer to this call with this body, else with any body, else None."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, upstream, request)

    def _find(self, upstream: str, request: Request) -> Answer | None:
        target = self._redaction.target(request.target)
        for body in (*self._forms(request.body), None):
            row = self._database.execute(_GET, (_key(upstream, request.method, target, body),)).fetchone()
            if row is not None:
                status, headers, content = row
                return Answer(status, msgspec.msgpack.decode(headers, type=list[tuple[bytes, bytes]]), content)
        return None

    def _forms(self, body: bytes | BodySource | None) -> Iterator[str]:
        """Yield the digests under which a sent body may be stored: redacted or not, with or without its line breaks. None for uploads."""
        if not isinstance(body, bytes) or not body:
            return
        try:
            redacted = self._redaction.body.apply(body, is_json=False)
        except UnreadableBody:
            redacted = body
        yield from dict.fromkeys(_digest(content) for content in (kept(redacted), digested(redacted), digested(body)))

    def redacted(self, target: str) -> str:
        """Return a target without its secrets, for a message."""
        return self._redaction.target(target)

    def close(self) -> None:
        self._is_closed = True
        self._thread.shutdown()
        self._database.close()


def open_answers(folder: Path | None, redact: Redact) -> RecordedAnswers | None:
    """The answers in a journal's folder; None without a folder. `redact`: what the journal redacts. Blocking. Raises ConfigError."""
    if folder is None:
        return None
    try:
        answers = RecordedAnswers(lambda: records(folder), Redaction(redact))
    except OSError as error:
        raise wrong_setting("FROM_JOURNAL", f"the journal {folder} cannot be read: {error.strerror or error}") from error
    if not answers.calls:
        answers.close()
        hint = "endpoints with `journal: {bodies: steps}` keep them"
        raise wrong_setting("FROM_JOURNAL", f"the journal {folder} contains no upstream answers", hint)
    logger.warning("upstreams are not called: %d answers come from the journal %s", answers.calls, folder)
    return answers


class RecordedTransport:
    """Replaces an upstream's transport and answers from the journal."""

    def __init__(self, answers: RecordedAnswers, upstream: UpstreamPlan) -> None:
        self._answers = answers
        self._upstream = upstream

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """Raises ConnectError for a call that was never recorded."""
        if self._upstream.is_authority:
            return _TOKEN
        name = self._upstream.name
        answer = await self._answers.find(name, request)
        if answer is None:
            path = self._answers.redacted(request.target)
            raise ConnectError(f"the journal has no answer from {name} to {request.method} {path}")
        return answer

    async def aclose(self) -> None:
        """Does nothing: the answers outlive a reload."""


def _rows(step: Step) -> Iterator[tuple[bytes, int, bytes, bytes]]:
    if step.method is None or step.target is None or step.status is None or (step.body is not None and not step.body.is_kept):
        return
    if step.body is None and not step.headers and 200 <= step.status < 204:
        return
    headers = msgspec.msgpack.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in step.headers.items()])
    body = b"" if step.body is None else step.body.to_bytes()
    if step.sent is not None and (step.sent.is_kept or step.sent.sha256 is not UNSET):
        yield _key(step.upstream, step.method, step.target, _digest(step.sent)), step.status, headers, body
    yield _key(step.upstream, step.method, step.target, None), step.status, headers, body


def _digest(content: Content) -> str:
    sha256 = content.sha256 if not content.is_kept else digested(content.to_bytes()).sha256
    assert isinstance(sha256, str)
    return sha256


def _key(upstream: str, method: str, target: str, body: str | None) -> bytes:
    return blake2b(f"{upstream}\0{method}\0{target}\0{body or ''}".encode(), digest_size=_KEY_BYTES).digest()
