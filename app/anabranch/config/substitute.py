"""Converts nodes to plain data, and substitutes `${NAME}`, `${NAME:-default}` and `${file:PATH}`.

Every substituted value is treated as a secret. In a template its braces are doubled, so that it is text and never a reference.
"""

import re
from collections.abc import Mapping as Environ
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, Final

from anabranch.config.model import is_template
from anabranch.config.node import Mapping, Node, Path, Scalar, Sequence
from anabranch.config.problems import Problems

_OPENING: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_MAX_FILE_BYTES: Final = 1024 * 1024
_STAND_IN: Final = "1"
"""In place of an unknown value: valid as a number, and as a part of a URL, a host name or a header."""
_STAND_IN_URL: Final = "http://1"
_URL_KEYS: Final = frozenset({"url", "urls", "token_url", "jwks_url", "issuer"})
_FORMS: Final = "write ${NAME}, ${NAME:-default} or ${file:PATH}, or $${ for a literal ${"


@dataclass(slots=True, kw_only=True, repr=False)
class Filled:
    """`data`: the document as dicts, lists and scalars; a copy that may be changed.

    `texts`: paths whose whole value is one substitution, with the substituted text. It is read as a YAML scalar if a string is not accepted.
    `broken`: paths without a value, because of a problem that has been reported. Their value in `data` is an empty string.
    `files`: the secret files that the document names. `guessed`: paths with a value that is not known here (see `fill`); nothing that a check finds
    at such a path is a mistake.
    """

    data: Any
    texts: dict[Path, str] = field(default_factory=dict)
    broken: set[Path] = field(default_factory=set)
    files: list[File] = field(default_factory=list)
    guessed: set[Path] = field(default_factory=set)


def fill(root: Node, environ: Environ[str, str], problems: Problems, *, without_secrets: bool = False) -> Filled:
    """The data of `root`. Adds problems and secrets to `problems`. A relative PATH starts at the folder of the file that names it.

    `without_secrets`: a variable or a secret file that does not exist here is only a warning, and "1" stands for its value.
    """
    filling = _Filling(environ, problems, without_secrets=without_secrets)
    filling.filled.data = filling.data(root, ())
    return filling.filled


class _Filling:
    def __init__(self, environ: Environ[str, str], problems: Problems, *, without_secrets: bool) -> None:
        self._without_secrets = without_secrets
        self.filled = Filled(data=None)
        self._environ = environ
        self._problems = problems
        self._contents: dict[File, tuple[str | None, str]] = {}

    def data(self, node: Node, path: Path) -> Any:
        if isinstance(node, Sequence):
            return [self.data(item, (*path, index)) for index, item in enumerate(node.items)]
        if isinstance(node, Mapping):
            for name in node.entries:
                if "${" in name.replace("$${", ""):
                    self._problems.add((*path, name), "variables are substituted only in values, not in keys", at_key=True)
            return {name: self.data(entry.value, (*path, name)) for name, entry in node.entries.items()}
        if node.is_broken:
            self.filled.broken.add(path)
            return ""
        if isinstance(node.value, str) and "${" in node.value:
            return self._text(node, node.value, path)
        return node.value

    def _text(self, node: Scalar, text: str, path: Path) -> str:
        folder = File(node.where.file).parent
        parts: list[str] = []
        end = 0
        is_secret = False
        value: str | None = None
        for match in _OPENING.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match[0] == "$${":
                parts.append("${")
                continue
            is_secret = True
            value = self._value(match[1], is_closed=bool(match[2]), path=path, folder=folder)
            if value is None:
                self.filled.broken.add(path)
            else:
                parts.append(value.replace("{", "{{").replace("}", "}}") if is_template(path) else value)
        parts.append(text[end:])
        if path in self.filled.broken:
            return ""
        whole = "".join(parts)
        if is_secret:
            self._problems.secrets.paths.add(path)
            if value is not None and _OPENING.fullmatch(text):
                self.filled.texts[path] = value
                if path in self.filled.guessed and _URL_KEYS.intersection(path[-2:]):
                    return _STAND_IN_URL
        return whole

    def _value(self, inside: str, *, is_closed: bool, path: Path, folder: File) -> str | None:
        """The value of one `${inside}`, or None with a problem."""
        if not is_closed:
            self._problems.add(path, "a `${` has no closing brace", hint=_FORMS)
            return None
        if inside.startswith("file:"):
            return self._file(inside.removeprefix("file:"), path, folder)
        match = _VARIABLE.fullmatch(inside)
        if match is None:
            self._problems.add(path, f"`${{{inside}}}` is not a valid substitution", hint=_FORMS)
            return None
        name, default = match[1], match[2]
        if default is not None and "${" in default:
            self._problems.add(path, f"the default of `{name}` cannot contain another substitution")
            return None
        value = self._environ.get(name)
        if value is None or (value == "" and default is not None):
            if default is None:
                hint = f"set it, or give it a default: ${{{name}:-...}}"
                return self._missing(path, f"the environment variable `{name}` is not set", hint)
            return default
        if not _is_unicode(value):
            self._problems.add(path, f"the environment variable `{name}` is not UTF-8")
            return None
        self._problems.secrets.values.add(value)
        return value

    def _file(self, name: str, path: Path, folder: File) -> str | None:
        if not name or "\0" in name:
            self._problems.add(path, "a secret file needs a path", hint="write ${file:PATH}")
            return None
        file = folder / name
        if file not in self._contents:
            self._contents[file] = _content(file)
            self.filled.files.append(file)
        content, fault = self._contents[file]
        if content is None:
            return self._missing(path, f"the secret file `{name}` {fault}")
        self._problems.secrets.values.add(content)
        return content

    def _missing(self, path: Path, message: str, hint: str = "") -> str | None:
        """Report a value that does not exist here. Returns what stands for it, if anything may."""
        self._problems.add(path, message, hint=hint, is_warning=self._without_secrets)
        if not self._without_secrets:
            return None
        self.filled.guessed.add(path)
        return _STAND_IN


def _content(file: File) -> tuple[str | None, str]:
    """The text of a secret file without the newline at its end and "", or None and the reason for the failure."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        return None, f"cannot be read: {error.strerror or type(error).__name__}"
    if len(data) > _MAX_FILE_BYTES:
        return None, "is larger than 1 MiB"
    try:
        return data.decode().rstrip("\r\n"), ""
    except UnicodeDecodeError:
        return None, "is not UTF-8 text"


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
