"""The peers: how each one is started, and why it cannot run on this machine, if so.

All peers serve the paths of `bench.cases`. They receive their port and the addresses of the services through the environment or a generated
document.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.peers import krakend

HERE: Final = Path(__file__).parent
DOCUMENT: Final = HERE.parent / "gateway.yaml"
OTHER: Final = "BENCH_OTHER"
"""Environment variable with the command `anabranch` of another version, for a comparison in one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The environment of a peer. `services`: base URLs. `folder`: for generated files. `document`: gateway document of Anabranch."""

    port: int
    services: tuple[str, ...]
    folder: Path
    document: Path = DOCUMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A command and its environment variables."""

    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`title`: for the report. `start`: makes the command. `missing`: why the peer cannot run here, or None; may install the peer."""

    title: str
    start: Callable[[Site], Start]
    missing: Callable[[], str | None] = lambda: None


def _anabranch(site: Site) -> Start:
    environment = {f"BENCH_SERVICE_{number}": url for number, url in enumerate(site.services)}
    environment |= {"ANABRANCH_HOST": "127.0.0.1", "ANABRANCH_PORT": str(site.port)}
    return Start(command=[sys.executable, "-m", "anabranch", "run", str(site.document)], environment=environment)


def _other(site: Site) -> Start:
    return Start(command=[os.environ[OTHER], *_anabranch(site).command[3:]], environment=_anabranch(site).environment)


def _without_other() -> str | None:
    command = os.environ.get(OTHER)
    return None if command and shutil.which(command) else f"{OTHER} does not name the command `anabranch` of another version"


def _asgi(module: str) -> Callable[[Site], Start]:
    def start(site: Site) -> Start:
        options = ["--host", "127.0.0.1", "--port", str(site.port), "--no-access-log", "--log-level", "warning", "--backlog", "4096"]
        return Start(
            command=[sys.executable, "-m", "uvicorn", f"bench.peers.{module}:app", *options],
            environment={"BENCH_SERVICES": " ".join(site.services)},
        )

    return start


def _node(site: Site) -> Start:
    return Start(
        command=["node", str(HERE / "node" / "server.js")],
        environment={"BENCH_SERVICES": " ".join(site.services), "BENCH_PORT": str(site.port), "NODE_ENV": "production"},
    )


def _go(site: Site) -> Start:
    return Start(
        command=[str(HERE / "go" / "gateway")], environment={"BENCH_SERVICES": " ".join(site.services), "BENCH_PORT": str(site.port)}
    )


def _krakend(site: Site) -> Start:
    file = site.folder / "krakend.json"
    file.write_text(json.dumps(krakend.document(site.port, site.services), indent=2))
    return Start(command=["krakend", "run", "-c", str(file)])


def _without_module(module: str, advice: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(module) else f"{module} cannot be imported; {advice}"


def _without_node() -> str | None:
    """Install the packages on first use, with exactly the versions of package.json."""
    if shutil.which("node") is None:
        return "node is not on PATH"
    if not (HERE / "node" / "node_modules" / "fastify").is_dir():
        if shutil.which("npm") is None:
            return "npm is not on PATH, so fastify and undici cannot be installed"
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        installed = subprocess.run(["npm", "install", *options], cwd=HERE / "node", capture_output=True, text=True, check=False)
        if installed.returncode:
            return f"npm could not install fastify and undici: {installed.stderr.strip().splitlines()[-1:]}"
    return None


def _without_go() -> str | None:
    """Build the program, from its sources as they are."""
    if shutil.which("go") is None:
        return "go is not on PATH"
    built = subprocess.run(["go", "build", "-o", "gateway", "."], cwd=HERE / "go", capture_output=True, text=True, check=False)
    return f"go could not build the program: {built.stderr.strip().splitlines()[-1:]}" if built.returncode else None


def _without_krakend() -> str | None:
    return None if shutil.which("krakend", path=os.environ.get("PATH")) else "krakend is not on PATH"


PEERS: Final = {
    "anabranch": Peer(
        title="Anabranch", start=_anabranch, missing=_without_module("anabranch.__main__", "python -m anabranch must work first")
    ),
    "textbook": Peer(title="FastAPI + httpx (textbook)", start=_asgi("textbook")),
    "aiohttp": Peer(
        title="FastAPI + aiohttp",
        start=_asgi("aiohttp_gateway"),
        missing=_without_module("aiohttp", "install the dependency group `bench`"),
    ),
    "node": Peer(title="Node: fastify + undici", start=_node, missing=_without_node),
    "go": Peer(title="Go: net/http", start=_go, missing=_without_go),
    "krakend": Peer(title="KrakenD", start=_krakend, missing=_without_krakend),
    "other": Peer(title="Anabranch, another version", start=_other, missing=_without_other),
    "floor": Peer(title="floor: uvicorn, empty ASGI application", start=_asgi("floor")),
}

# Rows that are not servers under test; `bench.measure` defines how each is measured.
YARDSTICKS: Final = {
    "exchange": "one exchange on a bare asyncio protocol",
    "wire": "one exchange on Anabranch's transport",
    "upstream": "the services alone",
}
