"""The workloads as a KrakenD 2 configuration."""

import re
from typing import Any, Final

from bench.cases import WORKLOADS, Call, Workload

JSON = Any
_REFERENCE: Final = re.compile(r"\{(\w+)\.(\w+)\}")


def document(port: int, services: tuple[str, ...]) -> JSON:
    """The whole configuration. `services`: base URLs by number."""
    return {
        "$schema": "https://www.krakend.io/schema/v2.7/krakend.json",
        "version": 3,
        "listen_ip": "127.0.0.1",
        "port": port,
        "timeout": "5s",
        "max_idle_connections": 4096,
        "max_idle_connections_per_host": 4096,
        "endpoints": [_endpoint(workload, services) for workload in WORKLOADS if workload.method != "growth" and not workload.is_joined],
        "extra_config": {
            "telemetry/logging": {"level": "ERROR", "prefix": "", "syslog": False, "stdout": True},
            "router": {"disable_access_log": True},
        },
    }


def _endpoint(workload: Workload, services: tuple[str, ...]) -> JSON:
    endpoint: dict[str, JSON] = {
        "endpoint": workload.path,
        "method": "GET",
        "output_encoding": "json",
        "backend": [_backend(call, workload, services) for call in workload.calls],
    }
    if workload.is_chain:
        endpoint["extra_config"] = {"proxy": {"sequential": True}}
    return endpoint


def _backend(call: Call, workload: Workload, services: tuple[str, ...]) -> JSON:
    """One call. An earlier backend's answer lies under its group: `{resp0_account.customer_id}`."""
    order = [earlier.name for earlier in workload.calls]
    path = _REFERENCE.sub(lambda found: f"{{resp{order.index(found[1])}_{found[1]}.{found[2]}}}", call.path)
    backend: dict[str, JSON] = {"host": [services[call.service]], "url_pattern": path, "encoding": "json", "group": call.name}
    if call.pick:
        backend["allow"] = list(call.pick)
    return backend
