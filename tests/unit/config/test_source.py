"""Files and folders: which are read, how they are joined, and how unreadable ones are reported."""

import os
from pathlib import Path

import pytest

from anabranch.config.load import read
from anabranch.config.problems import Positions, Problems
from anabranch.config.source import read_source
from anabranch.errors import ConfigError
from tests.support.documents import sound


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def _problems(path: Path) -> list[str]:
    problems = Problems()
    read_source(path, problems)
    return [str(problem).removeprefix(str(path)).lstrip(os.sep) for problem in problems.errors]


def test_a_folder_is_one_document_in_the_order_of_the_names(tmp_path: Path) -> None:
    _write(
        tmp_path,
        b="upstreams: {two: {url: http://b}}\nendpoints: [{path: /b, steps: {s: {upstream: one, path: /}}}]\nrouters: ['m:b']",
        a="version: 1\ntitle: A\nupstreams: {one: {url: http://a}}\nendpoints: [{path: /a, steps: {s: {upstream: two, path: /}}}]",
        c="version: 1\nrouters: ['m:c']",
    )
    (tmp_path / "d.yml").write_text("defaults: {timeout: 1s}")
    (tmp_path / "notes.txt").write_text("[")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "sub.yaml").mkdir()
    loaded = sound(tmp_path, {})
    assert list(loaded.document.upstreams) == ["one", "two"]
    assert [endpoint.path for endpoint in loaded.document.endpoints] == ["/a", "/b"]
    assert loaded.document.routers == ["m:b", "m:c"]
    assert loaded.document.defaults.timeout_s == 1.0
    assert [file.name for file in loaded.files] == ["a.yaml", "b.yaml", "c.yaml", "d.yml"]
    assert loaded.positions.locate(("endpoints", 1, "path")) == (str(tmp_path / "b.yaml"), 2, 20)
    assert loaded.positions.locate(("upstreams", "two"), at_key=True) == (str(tmp_path / "b.yaml"), 1, 13)


def test_a_kubernetes_volume_is_read_through_its_symlinks(tmp_path: Path) -> None:
    hidden = tmp_path / "..2026_01_01"
    hidden.mkdir()
    (hidden / "gateway.yaml").write_text("version: 1")
    (tmp_path / "..data").symlink_to(hidden.name)
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    loaded = sound(tmp_path, {})
    assert loaded.files == (tmp_path / "gateway.yaml",)


def test_a_key_in_two_files_is_reported_with_both_positions(tmp_path: Path) -> None:
    _write(
        tmp_path,
        a="version: 1\ndefaults: {timeout: 1s}\nupstreams:\n  one: {url: http://a}\nendpoints: {}",
        b="version: 2\ndefaults: {timeout: 2s}\nupstreams:\n  one: {url: http://b}\nendpoints: []",
    )
    a = tmp_path / "a.yaml"
    assert _problems(tmp_path) == [
        f"b.yaml:1:10: version: all files must have the same version; a different one is at {a}:1:1",
        f"b.yaml:2:1: defaults: `defaults` is allowed in only one file; it is also at {a}:2:1",
        f"b.yaml:4:3: upstreams.one: the upstream `one` is already defined at {a}:4:3",
        "b.yaml:5:1: endpoints: `endpoints` must be a list in every file that has it",
    ]


def test_a_folder_needs_the_version_in_one_file_only(tmp_path: Path) -> None:
    _write(tmp_path, a="title: A", b="description: B")
    with pytest.raises(ConfigError) as caught:
        sound(tmp_path, {})
    assert [problem.message for problem in caught.value.problems] == ["the key `version` is missing"]
    assert caught.value.problems[0].file == str(tmp_path / "a.yaml")


def test_joining_files_does_not_change_an_anchor_shared_by_an_upstream_map(tmp_path: Path) -> None:
    _write(tmp_path, a="version: 1\nupstreams: &u {one: {url: http://a}}\nx: *u", b="upstreams: {two: {url: http://b}}")
    problems = Problems()
    root = read_source(tmp_path, problems).root
    assert Positions(root).has(("upstreams", "two"))
    assert not Positions(root).has(("x", "two"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1:1: document: the file is empty; a gateway document begins with `version: 1`"),
        (b"# nothing\n", "1:1: document: the file is empty; a gateway document begins with `version: 1`"),
        (b"~", "1:1: document: the file is empty; a gateway document begins with `version: 1`"),
        (b"\n- 1", "2:1: document: a gateway document must be a mapping; it begins with `version: 1`"),
        (b"hello", "1:1: document: a gateway document must be a mapping; it begins with `version: 1`"),
        (b"a: 1\nb: \xc3\xbc\xff", "2:5: document: the file is not UTF-8; save it as UTF-8"),
        ("version: 1".encode("utf-16"), "1:1: document: the file is not UTF-8; save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_a_document_is_reported(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_bytes(content)
    assert _problems(file) == [f":{expected}"]
    with pytest.raises(ConfigError):
        read(file, {})


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_bytes(b"\xef\xbb\xbfversion: 1\r\ntitle: T\r\n")
    loaded = sound(file, {})
    assert loaded.document.title == "T"
    assert loaded.positions.locate(("title",)) == (str(file), 2, 8)


def test_a_missing_file_an_empty_folder_and_a_dangling_link_are_problems(tmp_path: Path) -> None:
    assert _problems(tmp_path / "no.yaml") == [":1:1: document: cannot be read: No such file or directory"]
    assert _problems(tmp_path) == [":1:1: document: the folder has no *.yaml or *.yml file"]
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    assert _problems(tmp_path) == ["gone.yaml:1:1: document: cannot be read: No such file or directory"]
    assert _problems(Path("x" * 5000)) == [":1:1: document: cannot be read: File name too long"]
    assert _problems(Path("a\0b")) == [":1:1: document: not a valid file name"]


def test_one_unreadable_file_does_not_hide_the_problems_of_the_others(tmp_path: Path) -> None:
    _write(tmp_path, a="version: 1\ntitel: x", b="a: [")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, {})
    assert [(Path(problem.file).name, problem.line) for problem in caught.value.problems] == [("a.yaml", 2), ("b.yaml", 1)]
