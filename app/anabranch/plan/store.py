"""Compiles the shared store."""

from dataclasses import dataclass

from anabranch.config import model as config
from anabranch.config.store import RedisURL
from anabranch.plan.upstream import TLSPlan, compile_tls
from anabranch.store.settings import Login, Place, RedisSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """`tls`: None: plain connections."""

    redis: RedisSettings
    tls: TLSPlan | None


def compile_store(store: config.Store) -> StorePlan:
    """The plan of a valid `store` section."""
    redis = store.redis
    url = RedisURL.parse(redis.url)
    tls = compile_tls(redis.tls or config.TLS()) if url.is_tls else None
    sentinel = redis.sentinel
    settings = RedisSettings(
        places=tuple(Place(*place) for place in url.places(is_sentinel=sentinel is not None)),
        login=Login(url.username, url.password) if url.password is not None else Login(redis.username, redis.password),
        database=url.database,
        prefix=redis.prefix.encode(),
        timeout_s=redis.timeout_s,
        connections=redis.connections,
        is_cluster=redis.cluster,
        sentinel=None if sentinel is None else sentinel.primary,
        sentinel_login=Login() if sentinel is None else Login(sentinel.username, sentinel.password),
        server_name=None if tls is None else tls.server_name,
    )
    return StorePlan(redis=settings, tls=tls)
