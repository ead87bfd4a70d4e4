"""The instructions of a Dockerfile, for tests that look at them or carry them out."""

import re
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """`name`: in capitals. `arguments`: the rest, with continued lines joined."""

    name: str
    arguments: str


def instructions(file: Path) -> list[Instruction]:
    """All instructions, in order, without comments."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", file.read_text("utf-8"), flags=re.MULTILINE))
    found = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [Instruction(name.upper(), arguments.strip()) for name, _, arguments in found]
