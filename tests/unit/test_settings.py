"""Settings and `.env.example` agree."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from anabranch.config.docstrings import meanings
from anabranch.core.environment import environment
from anabranch.document.compile import compile_file
from anabranch.settings import Settings, unknown_settings
from tests.support.paths import ROOT


def example() -> dict[str, str | None]:
    """The settings in `.env.example`; None for one that is commented out because it has no default."""
    found: dict[str, str | None] = {}
    for line in (ROOT / ".env.example").read_text("utf-8").splitlines():
        name, is_setting, value = line.removeprefix("# ").partition("=")
        if is_setting and name.startswith("ANABRANCH_") and name.replace("_", "").isalnum():
            found[name] = None if line.startswith("#") else value
    return found


def test_the_example_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANABRANCH_")]:
        monkeypatch.delenv(name)
    written = example()
    assert set(written) == {f"ANABRANCH_{name.upper()}" for name in Settings.model_fields}
    defaults = Settings(_env_file=None)
    for name, value in written.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    assert Settings(_env_file=None) == defaults


def test_the_example_matches_the_descriptions_of_the_settings() -> None:
    text = (ROOT / ".env.example").read_text("utf-8")
    texts = meanings(Settings)
    for name in Settings.model_fields:
        first = texts.get(name, "").split(". ")[0].removesuffix(".")
        assert first, f"{name} has no description"
        assert first in text, f".env.example does not describe {name} as the settings do"


@pytest.mark.parametrize(("name", "value"), [("PORT", "99999"), ("LOG_LEVEL", "loud"), ("SHUTDOWN_TIMEOUT_S", "-1")])
def test_an_invalid_setting_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ANABRANCH_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings(_env_file=None)


def test_the_admin_token_may_be_a_mounted_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANABRANCH_ADMIN_TOKEN", "of-the-environment")
    monkeypatch.setenv("ANABRANCH_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ValidationError, match=r"ANABRANCH_ADMIN_TOKEN_FILE names .*, which cannot be read"):
        Settings(_env_file=None)
    (tmp_path / "token").write_text("short", "utf-8")
    with pytest.raises(ValidationError, match="at least 8"):
        Settings(_env_file=None)
    (tmp_path / "token").write_text("long-enough\n", "utf-8")
    token = Settings(_env_file=None).admin_token
    assert token is not None
    assert token.get_secret_value() == "long-enough"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"ANABRANCH_{name.upper()}", "")
    given = Settings(_env_file=None)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ANABRANCH_{name.upper()}")
    assert given == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ANABRANCH_PROT", "did you mean ANABRANCH_PORT?"),
        ("anabranch_prot", "did you mean ANABRANCH_PORT?"),
        ("ANABRANCH_ADMINPORT", "did you mean ANABRANCH_ADMIN_PORT?"),
        ("ANABRANCH_MAX_REQUEST", "did you mean ANABRANCH_MAX_REQUESTS?"),
        ("ANABRANCH_XYZZY_QQ", ".env.example lists all settings"),
    ],
)
def test_an_unknown_setting_is_a_warning_with_a_proposal(name: str, hint: str) -> None:
    (warning,) = unknown_settings({name: "1", "ANABRANCH_PORT": "1", "anabranch_docs": "true", "OTHER": "x"})
    assert (warning.path, warning.hint, warning.is_warning) == (name, hint, True)


def test_env_file_feeds_settings_and_document_and_the_environment_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ANABRANCH_PORT=8123\nFLIGHTS_URL=http://from-file\nOTHER=file\n# comment\nEMPTY\n", "utf-8")
    monkeypatch.setenv("OTHER", "environment")
    assert Settings().port == 8123
    found = environment()
    assert (found["FLIGHTS_URL"], found["OTHER"], "EMPTY" in found) == ("http://from-file", "environment", False)
    (tmp_path / "gateway.yaml").write_text("version: 1\nupstreams: {a: {url: '${FLIGHTS_URL}'}}\n", "utf-8")
    assert compile_file(tmp_path / "gateway.yaml").draft.document.upstreams["a"].url == "http://from-file"
