"""The shared store in the document: a Redis or Valkey that several gateways use together."""

from typing import Annotated, Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from anabranch.config.base import Model
from anabranch.config.units import Count, Duration
from anabranch.config.upstream import TLS

_FORM = "redis://[user:password@]host[:port][/database]"
_PORT, _SENTINEL_PORT = 6379, 26379


class RedisURL(NamedTuple):
    """The parts of a URL. `ports`: None: the default one. `username`, `password`: None: not in the URL."""

    is_tls: bool
    hosts: tuple[tuple[str, int | None], ...]
    username: str | None
    password: str | None
    database: int

    def places(self, *, is_sentinel: bool) -> tuple[tuple[str, int], ...]:
        default = _SENTINEL_PORT if is_sentinel else _PORT
        return tuple((host, default if port is None else port) for host, port in self.hosts)

    @classmethod
    def parse(cls, url: str) -> "RedisURL":
        """Raises ValueError with a sentence that quotes nothing of `url`."""
        if any(not 0x20 < ord(char) < 0x7F for char in url):
            raise ValueError("a URL must not contain spaces, control characters or characters beyond ASCII; percent-encode them")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError(f"must be a URL of the form {_FORM}") from None
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("the URL must begin with redis://, or with rediss:// for TLS")
        if parts.query or parts.fragment:
            raise ValueError("a query or fragment is not allowed in the URL: options are keys beside `url`")
        database = parts.path.removeprefix("/")
        if database and not (database.isdecimal() and len(database) < 6):
            raise ValueError("the path of the URL is the number of a database, such as /1")
        userinfo, at, hosts = parts.netloc.rpartition("@")
        username, colon, password = userinfo.partition(":")
        if at and not (colon and password):
            raise ValueError("credentials in the URL are `user:password@`, or `:password@` for the default user")
        return cls(
            is_tls=parts.scheme == "rediss",
            hosts=tuple(_host(host) for host in hosts.split(",")),
            username=unquote(username) or None,
            password=unquote(password) if at else None,
            database=int(database or 0),
        )


def _host(text: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    labels = (host or "").removesuffix(".").split(".")
    if not host or port == 0 or (":" not in host and any(not 0 < len(label) < 64 for label in labels)):
        raise ValueError(f"the URL needs a host, and a port between 1 and 65535 if any: {_FORM}")
    return host, port


def _url(value: str) -> str:
    RedisURL.parse(value)
    return value


def _prefix(value: str) -> str:
    if len(value) > 128 or any(not 0x20 < ord(char) < 0x7F for char in value):
        raise ValueError("a prefix has at most 128 characters: ASCII without spaces")
    return value


def _paired(username: str | None, password: str | None) -> None:
    if username is not None and password is None:
        raise ValueError("`username` needs a `password`")


class Sentinel(Model):
    """Sentinels that know where the primary is. The hosts of `url` are theirs."""

    shorthand: ClassVar[str | None] = "primary"

    primary: str = Field(min_length=1)
    """Name under which the sentinels watch the primary. It may stand alone: `sentinel: mymaster`."""
    username: str | None = None
    """User at the sentinels, if they require one."""
    password: str | None = None
    """Password at the sentinels: `${NAME}` or `${file:PATH}`. That of the primary stands in `url`, or beside it."""

    @model_validator(mode="before")
    @classmethod
    def _with_primary(cls, value: Any) -> Any:
        return {"primary": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _credentials(self) -> "Sentinel":
        _paired(self.username, self.password)
        return self


class Redis(Model):
    """A Redis (6.2 or newer) or Valkey. Needs the extra `redis`. See docs/store.md."""

    url: Annotated[str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": "^rediss?://"})]
    """Address: `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS. With `cluster` or `sentinel`, several hosts may be separated by
    commas. Supply the password with `${NAME}` or `${file:PATH}`."""
    username: str | None = None
    """User, if it is not in `url`. If unset, the default user."""
    password: str | None = None
    """Password, if it is not in `url`: `${NAME}` or `${file:PATH}`. Here no character of it has to be percent-encoded."""
    prefix: Annotated[str, AfterValidator(_prefix)] = "anabranch:"
    """What the names of all keys and channels begin with. Gateways with the same prefix share what they know. With a hash tag, such as `{anabranch}:`, all
    keys are at one node of a cluster."""
    timeout_s: Duration = Field(0.02, alias="timeout")
    """Maximum duration of an operation. After it the store counts as away, until a new connection shows that it is back."""
    connections: Count = Field(2, ge=1, le=64)
    """Connections kept open to each server, in one worker. Operations share them: many can be in flight on each. One more receives messages."""
    tls: TLS | None = None
    """TLS settings of `rediss://`. Relative file paths start at the document's folder."""
    cluster: bool = False
    """The server is a cluster: its nodes are learned from the hosts of `url`."""
    sentinel: Sentinel | None = None
    """The primary is found by sentinels: its name, or a mapping of the keys below. If unset, `url` is the server."""

    @model_validator(mode="after")
    def _consistent(self) -> "Redis":
        parsed = RedisURL.parse(self.url)
        _paired(self.username, self.password)
        if self.password is not None and parsed.password is not None:
            raise ValueError("the password is given twice: in `url`, and in `password`")
        if self.cluster and self.sentinel is not None:
            raise ValueError("a cluster has no sentinels: set either `cluster` or `sentinel`")
        if len(parsed.hosts) > 1 and not self.cluster and self.sentinel is None:
            raise ValueError("several hosts in `url` need `cluster: true` or `sentinel`")
        if self.cluster and parsed.database:
            raise ValueError("a cluster has only the database 0")
        if self.tls is not None and not parsed.is_tls:
            raise ValueError("`tls` has no effect with redis://; write rediss://")
        return self


class Store(Model):
    """What several gateways know together: counters of rate limits, cached answers, messages and leases. Without it, each worker process knows only its own."""

    redis: Redis
    """A Redis or Valkey."""
