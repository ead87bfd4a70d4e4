"""Gateway documents with any number of endpoints, for the workload that measures the cost of their number."""

from typing import Final

SIZES: Final = (1, 100, 1_000, 10_000)

_HEAD: Final = """version: 1
title: Benchmark
upstreams:
  s0:
    url: ${BENCH_SERVICE_0}
    concurrency: {limit: 2048, queue: 2048}
    retry: {attempts: 3}
    breaker: {}
    pool: {max_idle: 2048}
endpoints:
"""
_ENDPOINT: Final = """  - path: /h/%d/users/{user_id}
    parameters: {user_id: {in: path, schema: {type: integer}}}
    steps:
      user: {upstream: s0, path: /user}
"""


def document(size: int) -> str:
    """A document with `size` endpoints that differ only in their paths."""
    return _HEAD + "".join(_ENDPOINT % number for number in range(size))


def path_of(number: int) -> str:
    """A request path for endpoint `number`."""
    return f"/h/{number}/users/17"
