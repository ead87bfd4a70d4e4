"""Collects every problem of a document, each with the position where it has to be fixed, and without secrets.

One `Problems` is used from reading the document to compiling its plans. To add a problem, the caller gives its path in the document and a
message.
"""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from anabranch.config.node import Located, Node, Path, walk
from anabranch.config.secrets import Secrets, is_confidential
from anabranch.errors import ConfigError, Problem

_MAX_SHOWN: Final = 60
"""Characters of a value that a problem shows."""


class Positions:
    """Where each part of a document was written. Without a document (in tests) every position is document:1:1."""

    def __init__(self, root: Node | None = None) -> None:
        self._root = root

    def locate(self, path: Path, *, at_key: bool = False) -> Located:
        """The position of the value at `path`, or with `at_key` of its key.

        List items have no key, so `at_key` makes no difference for them. If the document has nothing at `path`, the result is the position
        of the key of the nearest enclosing part.
        """
        if self._root is None:
            return Located("document", 1, 1)
        steps = list(walk(self._root, path))
        key, node = steps[-1]
        return node.where if len(steps) == len(path) + 1 and not at_key else key

    def has(self, path: Path) -> bool:
        """Whether the document has something at `path`."""
        return self._root is not None and sum(1 for _ in walk(self._root, path)) == len(path) + 1


class Problems:
    """All problems of a document. `errors` and `warnings` are sorted by file, line and column."""

    def __init__(self, positions: Positions | None = None, secrets: Secrets | None = None) -> None:
        self.positions = Positions() if positions is None else positions
        self.secrets = Secrets() if secrets is None else secrets
        self._found: dict[tuple[object, ...], Problem] = {}

    def add(
        self, path: Path, message: str, *, value: object = None, hint: str = "", is_warning: bool = False, at_key: bool = False
    ) -> None:
        """Add a problem at `path`.

        `value`: the wrong value. It is shown as shortened JSON, unless it contains a secret. None: nothing to show.
        `at_key`: the key is wrong, not its value. A problem that is added twice (an alias repeats the mistake of its anchor) counts once.
        """
        shown = None if value is None or self.secrets.touch(path) or is_confidential(path, value) else self.secrets.redact(json_text(value))
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
        """Add a problem at a position that the caller knows more precisely than `positions`. `shown`: text without secrets."""
        problem = Problem(
            file=where.file,
            line=where.line,
            column=where.column,
            path=path_text(path),
            message=on_one_line(self.secrets.redact(message)),
            value=None if shown is None else on_one_line(shown),
            hint=on_one_line(self.secrets.redact(hint)),
            is_warning=is_warning,
        )
        once = (where, problem.message, shown, is_warning, None if self.positions.has(path) else problem.path)
        self._found.setdefault(once, problem)

    def include(self, other: "Problems") -> None:
        """Add all problems of `other`."""
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
    """The hint "did you mean `flights`?" when one of `choices` differs from `word` by a typing error or two, else "": a proposal that is not
    near misleads more than none."""
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(choice.casefold(), choice)
    wanted = word.casefold()
    close = [choice for choice in get_close_matches(wanted, folded) if _mistakes(wanted, choice) <= max(1, len(wanted) // 3)]
    return f"did you mean `{folded[close[0]]}`?" if close and folded[close[0]] != word else ""


def _mistakes(one: str, other: str) -> int:
    """How many characters are missing, too many, wrong or swapped with their neighbour (the distance of optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, char in enumerate(one, 1):
        now = [row]
        for column, wanted in enumerate(other, 1):
            now.append(min(last[column] + 1, now[-1] + 1, last[column - 1] + (char != wanted)))
            if row > 1 and column > 1 and char == other[column - 2] and one[row - 2] == wanted:
                now[-1] = min(now[-1], before[column - 2] + 1)
        before, last = last, now
    return last[-1]


def path_text(path: Path) -> str:
    """`path` as messages show it: `endpoints[0].steps.weather.timeout`, `default["a b"]`, or `document` for the root."""
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
    """`value` as JSON on one line. A value that JSON cannot represent is shown as the name of its type."""
    return json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)


def on_one_line(text: str) -> str:
    """`text` with line breaks and other control characters escaped: a problem is one line, and cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
