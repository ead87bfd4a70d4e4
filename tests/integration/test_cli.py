"""The command `anabranch` as users see it: what it prints, where, and the exit code."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from typer.testing import CliRunner, Result

from anabranch.cli.main import cli
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.paths import PYTHONPATH, ROOT

COMMAND = (sys.executable, "-m", "anabranch")
TIMEOUT_S = 60.0
DOCUMENT = """\
version: 1
upstreams:
  flights: {{url: "{url}"}}
endpoints:
  - path: /flights/{{id}}
    name: flight
    parameters: {{id: {{in: path}}}}
    steps: {{flight: {{upstream: flights, path: "/flights/{{path.id}}"}}}}
  - path: /airlines
    steps: {{airlines: {{upstream: flights, path: /airlines}}}}
"""
TEN_MISTAKES = """\
version: 1
upstreams:
  flights: {url: "ftp://127.0.0.1", timout: 800ms}
  weather: {url: "http://127.0.0.1:9105", timeout: soon}
endpoints:
  - path: /a/{id}
    steps:
      flight: {upstream: fligts, path: "/f/{path.id}"}
      a: {upstream: weather, path: "/{b.x}"}
      b: {upstream: weather, path: "/{a.x}", requierd: true}
      c: {upstream: weather, path: "/{nope.x}", hidden: yes}
      d: {upstream: weather}
  - path: /a/{other}
    steps: {s: {upstream: weather, path: "/{query.q}"}}
routers: ["nowhere.at_all:router"]
"""


def environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANABRANCH_")}
    return {**clean, "PYTHONPATH": PYTHONPATH, **variables}


def anabranch(*arguments: str | Path, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end. It must never show a traceback."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command that ends by itself, in this process: starting another one takes seconds."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith("ANABRANCH_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str | Path, **variables: str) -> Result:
        result = CliRunner().invoke(cli, [*map(str, arguments)], env=variables, prog_name="anabranch")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9"), "utf-8")
    return path


@asynccontextmanager
async def running(*arguments: str | Path, **variables: str) -> AsyncIterator[tuple[Process, str, str]]:
    """`run` on a free port: the process, its address, and the line that it printed."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", *map(str, arguments), "--port", "0"),
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT_S):
            line = (await process.stderr.readline()).decode().rstrip()
        address = re.search(r"http://[^\s\"]+", line)
        assert address is not None, line
        yield process, address[0], line
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Process) -> tuple[int | None, str]:
    """The exit code, and the remaining output."""
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate()
    return process.returncode, ((out or b"") + (err or b"")).decode()


async def ends_well(process: Process) -> None:
    """The process ends as it was told, and the log says how and nothing else."""
    code, said = await ended(process)
    events = [json.loads(line) for line in said.splitlines()]
    assert {event["level"] for event in events} == {"info"}, said
    assert [event["event"].split(":")[0].split(";")[0] for event in events] == [
        events[0]["event"],
        "draining",
        "stopped listening",
        "ended with exit code 0",
    ], said
    assert events[0]["event"] in ("received SIGTERM", "received SIGINT")
    assert code == 0


# ---------------------------------------------------------------------------------------------------------------- run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_prints_its_address_and_exits_cleanly_when_idle(document: Path, number: signal.Signals) -> None:
    async with running(document) as (process, address, line):
        assert json.loads(line)["event"].endswith(f"serves {document} at {address}  (docs: {address}/docs)")
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            assert (await client.get("/readyz")).status_code == 200
            process.send_signal(number)
            await ends_well(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_completes_requests_in_flight_before_it_exits(document: Path, number: signal.Signals) -> None:
    async with ScriptedUpstream({"*": {"json": {"id": 1}, "delay_s": 0.5}}) as flights:
        document.write_text(DOCUMENT.format(url=flights.url), "utf-8")
        async with running(document) as (process, address, _), httpx.AsyncClient(base_url=address, timeout=60) as client:
            asked = asyncio.ensure_future(client.get("/flights/1"))
            await flights.until(lambda upstream: upstream.concurrent == 1)
            process.send_signal(number)
            answer = await asked
            assert (answer.status_code, answer.json()) == (200, {"flight": {"id": 1}})
            await ends_well(process)


async def test_run_cancels_requests_that_exceed_the_shutdown_timeout(document: Path) -> None:
    async with ScriptedUpstream({"*": {"hang": True}}) as flights:
        document.write_text(DOCUMENT.format(url=flights.url).replace("version: 1", "version: 1\ndefaults: {timeout: 1m}"), "utf-8")
        async with running(document, ANABRANCH_SHUTDOWN_TIMEOUT_S="0.2") as (process, address, _), httpx.AsyncClient(timeout=60) as client:
            asked = asyncio.ensure_future(client.get(f"{address}/flights/1"))
            await flights.until(lambda upstream: upstream.concurrent == 1)
            process.terminate()
            status, _ = await ended(process)
            assert status == 0
            await asyncio.gather(asked, return_exceptions=True)
            await flights.until(lambda upstream: upstream.open == 0)


async def test_run_ignores_unrelated_files(document: Path) -> None:
    async with (
        running(document, ANABRANCH_ACCESS_LOG="off") as (process, address, _),
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        (document.parent / "notes.txt").write_text("nothing of the gateway's", "utf-8")
        document.write_text(document.read_text("utf-8").replace("/airlines\n", "/carriers\n"), "utf-8")
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT_S):
            assert b"reloaded the document " in await process.stderr.readline()
        assert (await client.get("/carriers")).status_code == 502
        process.terminate()
        await ends_well(process)


async def test_run_takes_its_settings_from_the_environment(document: Path) -> None:
    variables = {"ANABRANCH_DOCUMENT": str(document), "ANABRANCH_DOCS": "false"}
    async with running(**variables) as (process, address, line), httpx.AsyncClient(base_url=address, timeout=60) as client:
        assert "docs" not in line
        assert (await client.get("/docs")).status_code == 404
        process.terminate()
        await ends_well(process)


async def test_run_shows_the_warnings_of_its_document(document: Path) -> None:
    document.write_text(DOCUMENT.format(url="http://127.0.0.1:9").replace('9"}', '9", timeout: 3s}'), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", str(document), "--port", "0"), cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT_S):
        lines = [(await process.stderr.readline()).decode() for _ in range(3)]
    process.terminate()
    assert (await ended(process))[0] == 0
    assert [": warning: " in line for line in lines] == [True, True, False]
    assert " serves " in lines[2]


def test_busy_port_is_one_clear_line(document: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = anabranch("run", document, "--port", str(port))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another with --port\n"


def test_foreign_address_is_one_clear_line(document: Path) -> None:
    done = anabranch("run", document, "--host", "192.0.2.1", "--port", "0")
    assert done.returncode == 3
    assert done.stderr == (
        "cannot listen on 192.0.2.1 port 0: Cannot assign requested address; "
        "--host takes an address of this machine, or 0.0.0.0 for all of them\n"
    )


@pytest.mark.parametrize("command", ["run", "check", "explain", "openapi"])
def test_ten_mistakes_are_ten_located_problems(tmp_path: Path, command: str, invoke: Callable[..., Result]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEN_MISTAKES, "utf-8")
    done = invoke(command, path)
    assert (done.exit_code, done.stdout) == (3, "")
    *problems, count = done.stderr.splitlines()
    assert len(problems) >= 10
    assert count == f"{len(problems)} problems"
    assert all(re.match(rf"{re.escape(str(path))}:\d+:\d+: \S+: \S", problem) for problem in problems)
    assert any("did you mean `flights`?" in problem for problem in problems)


def test_missing_document_is_one_located_line(tmp_path: Path) -> None:
    done = anabranch("run", tmp_path / "nothing.yaml")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"{tmp_path / 'nothing.yaml'}:1:1: document: cannot be read: No such file or directory",
        "1 problem",
    ]


def test_run_without_a_document_explains_how_to_set_one(tmp_path: Path) -> None:
    done = anabranch("run", cwd=tmp_path)
    assert done.returncode == 3
    assert "run `anabranch run FILE`, or set ANABRANCH_DOCUMENT" in done.stderr


def test_every_wrong_setting_is_a_line_with_its_name(document: Path) -> None:
    done = anabranch("run", document, ANABRANCH_PORT="lots", ANABRANCH_LOG_LEVEL="loud", ANABRANCH_SHUTDOWN_TIMEOUT_S="-1")
    assert (done.returncode, done.stdout) == (3, "")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["settings", "ANABRANCH_PORT"],
        ["settings", "ANABRANCH_SHUTDOWN_TIMEOUT_S"],
        ["settings", "ANABRANCH_LOG_LEVEL"],
        ["3 problems"],
    ]


def test_settings_file_that_is_not_text_is_named(tmp_path: Path, document: Path) -> None:
    (tmp_path / ".env").write_bytes(b"ANABRANCH_PORT=\xff\xfe")
    done = anabranch("run", document, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, ".env: the file cannot be read: it is not UTF-8\n1 problem\n")


@pytest.mark.parametrize("command", ["run", "check"])
def test_unusable_certificates_are_problems_of_their_upstream(tmp_path: Path, command: str, invoke: Callable[..., Result]) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "other.pem").write_text("nothing", "utf-8")
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"""\
version: 1
upstreams:
  a: {{url: "https://127.0.0.1", tls: {{ca: "{tmp_path}/missing.pem"}}}}
  b: {{url: "https://127.0.0.1", tls: {{ca: "{tmp_path}/other.pem"}}}}
  c: {{url: "https://127.0.0.1", tls: {{ca: "{tmp_path}/ca.pem", key: "{tmp_path}/key.pem"}}}}
  d: {{url: "https://127.0.0.1", tls: {{ca: "{tmp_path}/ca.pem", cert: "{tmp_path}/missing.pem"}}}}
  good: {{url: "https://127.0.0.1", tls: {{ca: ca.pem}}}}
endpoints:
  - {{path: /a, steps: {{s: {{upstream: good, path: /}}}}}}
""",
        "utf-8",
    )
    done = invoke(command, path)
    assert (done.exit_code, done.stdout) == (3, "")
    assert [line.removeprefix(f"{path}:").replace(str(tmp_path), "") for line in done.stderr.splitlines()] == [
        "3:38: upstreams.a.tls: tls.ca: /missing.pem cannot be read: No such file or directory",
        "4:38: upstreams.b.tls: tls.ca: /other.pem does not contain certificates in PEM form, or they do not match",
        "5:38: upstreams.c.tls: tls.key is set without tls.cert: set tls.cert to the client certificate",
        "6:38: upstreams.d.tls: tls.cert and tls.key: /missing.pem cannot be read: No such file or directory",
        "4 problems",
    ]


def test_missing_extra_is_a_problem_that_explains_how_to_install_it(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        """\
version: 1
upstreams:
  a: {url: "https://127.0.0.1", transport: httpx, http2: true}
endpoints:
  - {path: /a, steps: {s: {upstream: a, path: /}}}
""",
        "utf-8",
    )
    # With None in sys.modules, Python treats a module as not installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'h2' else find(name, *rest)\n",
        "utf-8",
    )
    done = anabranch("run", path, "--port", "0", PYTHONPATH=f"{tmp_path}{os.pathsep}{PYTHONPATH}")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"{path}:3:58: upstreams.a.http2: http2 needs the extra 'http2': pip install 'anabranch[http2]'",
        "1 problem",
    ]


# -------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("check",),
        ("check", "a", "b"),
        ("run", "--speed", "9"),
        ("run", "x", "--port", "many"),
        ("run", "x", "--port", "99999"),
    ],
)
def test_wrong_usage_exits_with_2_and_shows_the_correct_usage(arguments: tuple[str, ...], invoke: Callable[..., Result]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Usage:" in done.stdout + done.stderr


def test_help_and_version() -> None:
    assert anabranch("--help").returncode == 0
    assert re.fullmatch(r"anabranch \d+\.\d+\.\d+\S*\n", anabranch("--version").stdout)


# ------------------------------------------------------------------------------------------- check, explain, describe


def test_check_of_a_good_document(document: Path, invoke: Callable[..., Result]) -> None:
    done = invoke("check", document)
    assert (done.exit_code, done.stderr) == (0, "")
    calls = "upstream calls of one request\n  GET /flights/{id}: at most 1\n  GET /airlines: at most 1\n"
    expected = f"{document}: 2 endpoints, 1 upstream, no problems\n{calls}digest "
    assert re.fullmatch(rf"{re.escape(expected)}[0-9a-f]{{64}}\n", done.stdout)


def test_check_of_a_folder(tmp_path: Path, invoke: Callable[..., Result]) -> None:
    upstreams, endpoints = DOCUMENT.format(url="http://127.0.0.1:9").split("endpoints:")
    (tmp_path / "a.yaml").write_text(upstreams, "utf-8")
    (tmp_path / "b.yaml").write_text("version: 1\nendpoints:" + endpoints, "utf-8")
    assert invoke("check", tmp_path).stdout.startswith(f"{tmp_path}: 2 endpoints, 1 upstream, no problems\n")


def test_check_shows_warnings_and_succeeds(document: Path, invoke: Callable[..., Result]) -> None:
    document.write_text(DOCUMENT.format(url="http://127.0.0.1:9").replace('9"}', '9", timeout: 3s}'), "utf-8")
    done = invoke("check", document)
    assert done.exit_code == 0
    first, second, last, *_ = done.stdout.splitlines()
    assert re.match(rf"{re.escape(str(document))}:\d+:\d+: warning: endpoints\[0\]", first)
    assert "warning: endpoints[1]" in second
    assert last == f"{document}: 2 endpoints, 1 upstream, 2 warnings, no problems"


def test_explain_shows_every_endpoint_or_the_named_one(document: Path, invoke: Callable[..., Result]) -> None:
    every = invoke("explain", document)
    assert every.exit_code == 0
    assert re.findall(r"^\S.*", every.stdout, re.MULTILINE) == ["GET /flights/{id}  (flight)", "GET /airlines  (get_airlines)"]
    for name in ("flight", "/flights/{id}", "GET /flights/{id}"):
        one = invoke("explain", document, name)
        assert every.stdout.startswith(one.stdout.rstrip("\n"))


@pytest.mark.parametrize(("name", "hint"), [("fligth", "did you mean `flight`?"), ("nothing", "the document has flight, get_airlines")])
def test_explain_of_an_unknown_endpoint_lists_the_known_ones(document: Path, name: str, hint: str, invoke: Callable[..., Result]) -> None:
    done = invoke("explain", document, name)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"there is no endpoint '{name}'; {hint}\n")


def test_explain_of_a_document_without_endpoints_is_one_sentence(document: Path, invoke: Callable[..., Result]) -> None:
    document.write_text("version: 1\nupstreams: {a: {url: http://127.0.0.1:9}}\n", "utf-8")
    done = invoke("explain", document)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"{document} has no endpoints to explain\n")


@pytest.mark.parametrize("command", ["check", "explain", "openapi"])
def test_no_output_shows_a_secret(tmp_path: Path, command: str, invoke: Callable[..., Result]) -> None:
    path = tmp_path / "gateway.yaml"
    (tmp_path / "secret").write_text("from-the-file\n", "utf-8")
    path.write_text(
        """\
version: 1
upstreams:
  a: {url: "http://user-${HOST}.invalid/base", headers: {authorization: "Bearer ${TOKEN}", x-key: "${file:secret}"}}
endpoints:
  - path: /a
    steps: {s: {upstream: a, path: "/x/${TOKEN}", query: {key: "${file:secret}"}}}
""",
        "utf-8",
    )
    done = invoke(command, path, TOKEN="from-the-environment", HOST="hidden-host")
    assert done.exit_code == 0, done.stderr
    shown = done.stdout + done.stderr
    assert not [secret for secret in ("from-the-environment", "from-the-file", "hidden-host") if secret in shown]


def test_openapi_and_schema_are_written_to_stdout_or_a_file(tmp_path: Path, document: Path, invoke: Callable[..., Result]) -> None:
    described = invoke("openapi", document)
    assert set(json.loads(described.stdout)["paths"]) == {"/flights/{id}", "/airlines"}
    target = tmp_path / "new" / "folder" / "openapi.json"
    assert invoke("openapi", document, "-o", target).exit_code == 0
    assert target.read_text("utf-8") == described.stdout
    assert json.loads(invoke("schema").stdout)["$schema"].startswith("https://json-schema.org/")
    assert invoke("schema", "--output", tmp_path / "schema.json").stdout == ""
    assert json.loads((tmp_path / "schema.json").read_text("utf-8"))["type"] == "object"


def test_output_that_cannot_be_written_is_one_clear_line(tmp_path: Path, invoke: Callable[..., Result]) -> None:
    done = invoke("schema", "-o", tmp_path)
    assert (done.exit_code, done.stderr) == (2, f"cannot write {tmp_path}: Is a directory\n")


@pytest.mark.parametrize("arguments", [("schema",), ("explain", "demo/gateway.yaml"), ("openapi", "demo/gateway.yaml")])
def test_closed_output_pipe_causes_no_traceback(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=ROOT, env=environment(), stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
