"""Collecting every problem of a document, each at the place where it has to be mended, with no secret in it.

`Problems` is handed from the reading of the document to the compiling of its plans; who adds to it needs to know the path into the
document and a sentence. It knows nothing of YAML, of pydantic or of what the document means.
"""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from anabranch.config.node import Located, Node, Path, trail
from anabranch.config.secrets import Secrets
from anabranch.errors import ConfigError, Problem

_LONGEST_VALUE: Final = 60


class Positions:
    """Where each part of a document was written. Without a document (in a test) everything is at document:1:1."""

    def __init__(self, root: Node | None = None) -> None:
        self._root = root

    def locate(self, path: Path, *, at_key: bool = False) -> Located:
        """The place of the value at `path`, or of its key; of the nearest part around it when the document has nothing there.

        The items of a list have no key of their own: `at_key` makes no difference to them. Where only a part around it is known,
        the place is always that of the part's key.
        """
        if self._root is None:
            return Located("document", 1, 1)
        steps = list(trail(self._root, path))
        key, node = steps[-1]
        return node.where if len(steps) == len(path) + 1 and not at_key else key

    def has(self, path: Path) -> bool:
        """Whether the document has something at `path`."""
        return self._root is not None and sum(1 for _ in trail(self._root, path)) == len(path) + 1


class Problems:
    """All that is wrong with a document. `errors` and `warnings` are sorted by file, line and column."""

    def __init__(self, positions: Positions | None = None, secrets: Secrets | None = None) -> None:
        self.positions = Positions() if positions is None else positions
        self.secrets = Secrets() if secrets is None else secrets
        self._found: dict[tuple[object, ...], Problem] = {}

    def add(
        self, path: Path, message: str, *, value: object = None, hint: str = "", is_warning: bool = False, at_key: bool = False
    ) -> None:
        """Note a problem with what stands at `path`.

        `value`: the offending value; it is shown as JSON, shortened, unless a secret went into it. None: nothing to show.
        `at_key`: the key is at fault, not its value. What is reported twice (an alias repeats the mistake of its anchor) counts once.
        """
        shown = None if value is None or self.secrets.touch(path) else self.secrets.redact(json_text(value))
        self.add_at(
            self.positions.locate(path, at_key=at_key),
            message,
            path=path,
            shown=None if shown is None else _shortened(shown),
            hint=hint,
            is_warning=is_warning,
        )

    def add_at(
        self, where: Located, message: str, *, path: Path = (), shown: str | None = None, hint: str = "", is_warning: bool = False
    ) -> None:
        """Note a problem at a place that the caller knows better than `positions`. `shown`: text that holds no secret."""
        problem = Problem(
            file=where.file,
            line=where.line,
            column=where.column,
            path=path_text(path),
            message=_on_one_line(self.secrets.redact(message)),
            value=None if shown is None else _on_one_line(shown),
            hint=_on_one_line(self.secrets.redact(hint)),
            is_warning=is_warning,
        )
        once = (where, problem.message, shown, is_warning, None if self.positions.has(path) else problem.path)
        self._found.setdefault(once, problem)

    def include(self, other: "Problems") -> None:
        """Take over what `other` holds."""
        for once, problem in other._found.items():  # noqa: SLF001 - the same class
            self._found.setdefault(once, problem)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self._sorted() if not problem.is_warning]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self._sorted() if problem.is_warning]

    def raise_if_any(self) -> None:
        """Raises ConfigError with all errors. Warnings alone raise nothing."""
        if errors := self.errors:
            raise ConfigError(errors)

    def _sorted(self) -> list[Problem]:
        return sorted(self._found.values(), key=lambda problem: (problem.file, problem.line, problem.column))


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The hint "did you mean `flights`?" when one of `choices` looks like `word`, else ""."""
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(choice.casefold(), choice)
    close = get_close_matches(word.casefold(), folded, n=1)
    return f"did you mean `{folded[close[0]]}`?" if close and folded[close[0]] != word else ""


def path_text(path: Path) -> str:
    """`path` as it is written in messages: `endpoints[0].steps.weather.timeout`, `default["a b"]`; `document` for the whole."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(character.isalnum() or character in "_-/" for character in part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=not part.isprintable())}]"
    return text or "document"


def json_text(value: object) -> str:
    """`value` on one line as JSON; what JSON cannot say, as the name of its type."""
    return json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)


def _on_one_line(text: str) -> str:
    """`text` with line breaks and other control characters escaped: a problem is one line, and harmless to a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
