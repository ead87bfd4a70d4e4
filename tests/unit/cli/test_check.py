"""`anabranch check`: for people, for programs, for workflows; with and without the secrets of production."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.document.compile import compile_file
from anabranch.errors import ConfigError

DOCUMENT = """
version: 1
upstreams:
  orders:
    url: ${ORDERS_URL}
    timeout: ${ORDERS_TIMEOUT}s
    concurrency: {limit: "${ORDERS_LIMIT}"}
    headers: {authorization: "Bearer ${file:secrets/token}", x-key: "${ORDERS_KEY}"}
  stock: {url: "http://${STOCK_HOST}:${STOCK_PORT}/base"}
endpoints:
  - path: /orders/{id}
    steps:
      order: {upstream: orders, path: "/orders/{path.id}"}
      stock: {upstream: stock, path: "/stock/{order.id}"}
"""


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ORDERS_URL", "ORDERS_TIMEOUT", "ORDERS_LIMIT", "ORDERS_KEY", "STOCK_HOST", "STOCK_PORT"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT, "utf-8")
    return path


def check(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["check", *map(str, arguments)])
    return done.exit_code, done.output


def test_a_document_without_its_secrets_is_not_usable(document: Path) -> None:
    code, said = check(document)
    assert code == 3
    assert said.count("is not set") == 6
    assert "secrets/token` cannot be read" in said


def test_a_pipeline_checks_a_document_without_its_secrets(document: Path) -> None:
    code, said = check(document, "--without-secrets")
    assert code == 0, said
    assert said.count(": warning: ") == 7
    assert "1 endpoint, 2 upstreams" in said


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("/stock/{order.id}", "/stock/{ordre.id}", "ordre"),
        ("upstream: stock,", "upstream: stocks,", "unknown upstream `stocks`"),
        ("    timeout: ${ORDERS_TIMEOUT}s", "    timeout: ${ORDERS_TIMEOUT}s\n    retries: {attempts: 2}", "unknown key `retries`"),
        ("version: 1", "version: 1\nport: 8080", "unknown key `port`"),
        ("/base", "/base, timeout: soon", "must be a duration"),
        ("${STOCK_PORT}", "${STOCK PORT}", "is not a valid substitution"),
    ],
)
def test_other_mistakes_are_found_without_secrets(document: Path, before: str, after: str, expected: str) -> None:
    text = document.read_text("utf-8").replace('{url: "http://', "{url: 'http://").replace('/base"}', "/base'}")
    assert before in text
    text = text.replace(before, after) if "/base" not in before else text.replace("/base'}", "/base', timeout: soon}")
    document.write_text(text, "utf-8")
    code, said = check(document, "--without-secrets")
    assert code == 3, said
    assert expected in said


def test_every_value_that_exists_is_checked_without_secrets_too(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_URL", "no url")
    with pytest.raises(ConfigError) as refused:
        compile_file(document, without_secrets=True)
    assert [problem.path for problem in refused.value.problems] == ["upstreams.orders.url"]


def test_certificates_that_do_not_exist_here_are_warnings_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nupstreams: {a: {url: https://a.test, tls: {ca: nowhere.pem}}}\n", "utf-8")
    assert check(path)[0] == 3
    code, said = check(path, "--without-secrets")
    assert (code, "nowhere.pem" in said) == (0, True)


def test_digest_is_that_of_the_document_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\n", "utf-8")
    digest = compile_file(path).draft.digest
    assert check(path) == (0, f"{path}: 0 endpoints, 0 upstreams, no problems\ndigest {digest}\n")
    _, said = check(path, "--format", "json")
    assert json.loads(said) == {
        "document": str(path),
        "usable": True,
        "digest": digest,
        "calls": [],
        "endpoints": 0,
        "upstreams": 0,
        "problems": [],
    }


def test_problems_as_json(document: Path) -> None:
    code, said = check(document, "--format", "json")
    report = json.loads(said)
    assert (code, report["usable"], report["digest"]) == (3, False, None)
    first = report["problems"][0]
    assert (first["severity"], first["line"], first["path"]) == ("error", 5, "upstreams.orders.url")
    _, said = check(document, "--format", "json", "--without-secrets")
    assert {problem["severity"] for problem in json.loads(said)["problems"]} == {"warning"}


def test_problems_as_annotations_of_a_workflow(tmp_path: Path) -> None:
    folder = tmp_path / "a,b:c%"
    folder.mkdir()
    path = folder / "gateway.yaml"
    path.write_text("version: 1\nupstreams: {a: {url: http://a, timeout: 50%}}\n", "utf-8")
    code, said = check(path, "--format", "github")
    assert code == 3
    line = said.splitlines()[0]
    place = str(path).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    assert line.startswith(f"::error file={place},line=2,col=")
    assert ",title=upstreams.a.timeout::" in line
    assert '(found "50%25")' in line


def test_modules_are_searched_in_the_folder_of_the_document_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "work").mkdir()
    document = 'version: 1\nendpoints: [{path: /a, steps: {s: {compute: "NAME:f"}}}]\n'
    for folder, name in (("conf", "searched_in_conf"), ("work", "searched_in_work")):
        (tmp_path / folder / f"{name}.py").write_text("def f() -> int:\n    return 1\n", "utf-8")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    for name in ("searched_in_conf", "searched_in_work"):
        path = tmp_path / "conf" / "gateway.yaml"
        path.write_text(document.replace("NAME", name), "utf-8")
        assert compile_file(path).plan.pools
    path.write_text(document.replace("NAME", "searched_nowhere"), "utf-8")
    with pytest.raises(ConfigError, match="document's folder, the working directory and the installed packages"):
        compile_file(path)
