"""What is known of a Redis or Valkey before a connection is opened."""

from typing import NamedTuple

import msgspec


class Place(NamedTuple):
    """A server's address."""

    host: str
    port: int


class Login(msgspec.Struct, frozen=True):
    """Credentials of `AUTH`. `username`: None: the default user. `password`: None: no AUTH is sent."""

    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "Login()"


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`places`: the server; with `sentinel` the sentinels, with `is_cluster` some nodes. `prefix`: of every key and channel. `timeout_s`: of each operation.
    `connections`: kept to each server. `sentinel`: name of the primary; None: no sentinels. `sentinel_login`: at the sentinels. `server_name`: verified by TLS;
    None: the host of the address."""

    places: tuple[Place, ...]
    login: Login = Login()
    database: int = 0
    prefix: bytes = b"anabranch:"
    timeout_s: float = 0.02
    connections: int = 2
    is_cluster: bool = False
    sentinel: str | None = None
    sentinel_login: Login = Login()
    server_name: str | None = None
