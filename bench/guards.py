"""Measures what guards and caches cost: `python -m bench.guards` prints the table of docs/performance.md.

One gateway, one run. Each row is one endpoint that differs from the first one, or from the second one, by what it is named after. The share is that of the CPU time of
the smallest aggregate: one call with a body of 0.2 kB. Rows with a shared store need Valkey, which runs on the other core.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from joserfc import jwt
from joserfc.jwk import OctKey

from bench.load import Job
from bench.measure import Bench, Options, opened
from bench.server import Cores, free_port, process, wait_until_up
from bench.trial import attempt

SECRET: Final = "of the benchmark, and of nothing else"
DOCUMENT: Final = """
version: 1
auth:
  users: {jwt: {issuer: "https://id.example/", audience: shop, secret: "SECRET", algorithms: [HS256]}}
  partners: {api_key: {keys: {bench: {sha256: 8fab151ebfe45da0ce0c2a951f8bba063f8668389b08a793acf59f301a6dbd57}}}}
rate_limits:
  closed: {rate: 1/1d, by: [client.ip]}
  open: {rate: 1000000/1s, by: [client.ip]}
SHARED_LIMITS
upstreams:
  s0: {url: "SERVICE_0", concurrency: {limit: 2048, queue: 2048}, retry: {attempts: 3}, breaker: {}, pool: {max_idle: 2048}}
  s1: {url: "SERVICE_1", concurrency: {limit: 2048, queue: 2048}, retry: {attempts: 3}, breaker: {}, pool: {max_idle: 2048}}
  s2: {url: "SERVICE_2", concurrency: {limit: 2048, queue: 2048}, retry: {attempts: 3}, breaker: {}, pool: {max_idle: 2048}}
endpoints:
  - {path: /one, steps: {user: {upstream: s0, path: /user}}}
  - {path: /three, steps: THREE}
  - {path: /closed, auth: users, steps: THREE}
  - {path: /jwt, auth: users, steps: THREE}
  - {path: /key, auth: partners, steps: THREE}
  - {path: /refused, rate_limits: [closed], steps: THREE}
  - {path: /limited, rate_limits: [open], steps: THREE}
  - path: /cached
    response: {cache: false}
    steps:
      user: {upstream: s0, path: /user, cache: {ttl: 1h}}
      orders: {upstream: s1, path: /orders, cache: {ttl: 1h}}
      weather: {upstream: s2, path: /weather, cache: {ttl: 1h}}
  - {path: /cached-one, response: {cache: false}, steps: {user: {upstream: s0, path: /user, cache: {ttl: 1h}}}}
SHARED_ENDPOINTS
"""
THREE: Final = "{user: {upstream: s0, path: /user}, orders: {upstream: s1, path: /orders}, weather: {upstream: s2, path: /weather}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`path`: requested, with these header fields, and answered with this status."""

    title: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


def rows(token: str, *, has_store: bool) -> list[Row]:
    """Those that can be measured here."""
    bearer = {"Authorization": f"Bearer {token}"}
    found = [
        Row(title="one call: the smallest aggregate", path="/one"),
        Row(title="three calls (workload A)", path="/three"),
        Row(title="refused: no token", path="/closed", status=401),
        Row(title="refused: rate limit", path="/refused", status=429),
        Row(title="one call, from the cache in memory", path="/cached-one"),
        Row(title="three calls, from the cache in memory", path="/cached"),
        Row(title="three calls with a verified JWT", path="/jwt", headers=bearer),
        Row(title="three calls with an API key", path="/key", headers={"X-API-Key": "k-alice"}),
        Row(title="three calls within a rate limit in memory", path="/limited"),
    ]
    if has_store:
        found += [
            Row(title="three calls within a shared rate limit", path="/shared-limit"),
            Row(title="refused: shared rate limit", path="/shared-refused", status=429),
            Row(title="one call, from the shared cache", path="/shared-cache"),
        ]
    return found


def document(services: list[int]) -> str:
    """The gateway document. `services`: their ports."""
    text = DOCUMENT.replace("SHARED_LIMITS", "").replace("SHARED_ENDPOINTS", "").replace("THREE", THREE).replace("SECRET", SECRET)
    for number in range(3):
        text = text.replace(f"SERVICE_{number}", f"http://127.0.0.1:{services[number]}")
    return text


def token() -> str:
    now = int(time.time())
    claims = {"iss": "https://id.example/", "aud": "shop", "sub": "bench", "iat": now, "exp": now + 3600}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
