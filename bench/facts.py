"""The machine and the software versions of a run, needed to interpret its figures."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("anabranch", "fastapi", "uvicorn", "uvloop", "httptools", "httpx", "httpcore", "aiohttp", "orjson", "msgspec")


def facts(generator: str) -> dict[str, str]:
    """Name to value, in the order of the report. `generator`: load generator of the closed loops."""
    load = os.getloadavg()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"Linux {'.'.join(platform.release().split('-')[0].split('.')[:2])}",
        "load before the run": f"{load[0]:.2f}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
        "Node": _node(),
        "Go": _output("go", "version"),
        "KrakenD": _output("krakend", "version"),
        "closed loops by": generator,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _node() -> str:
    version = _output("node", "--version")
    file = Path(__file__).parent / "peers" / "node" / "package.json"
    packages = [line.strip().strip(",").replace('"', "").replace(":", "") for line in file.read_text().splitlines()]
    return ", ".join([version, *(line for line in packages if line.startswith(("fastify ", "undici ")))])


def _output(*command: str) -> str:
    """The first line of a command's output, or "not installed"."""
    if shutil.which(command[0]) is None:
        return "not installed"
    printed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    return next(iter(printed.splitlines()), "unknown").strip()
