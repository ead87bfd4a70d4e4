"""`docs/reference.md`, made from the models: every key of the document with its type, default and meaning.

`python -m anabranch.describe.document_reference FILE` writes it. A test fails when the file in `docs/` is not what this makes.
"""

import json
import sys
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from anabranch.describe.document_catalogue import Key, keys, sections

_HEAD: Final = """\
# Reference of the gateway document

<!-- Made by `make docs` from app/anabranch/config/model.py. Change the docstrings there, not this file. -->

A gateway document is YAML 1.2: one file, or a folder whose `*.yaml` and `*.yml` files are read as one document, in the order of their names
(sub-folders and names that begin with a dot do not count). In a folder `upstreams` are put together and `endpoints` and `routers` joined;
`version` must agree where it stands; any other key stands in one file only. `anabranch check FILE` reports every mistake at once,
each with file, line and column.

An editor with the YAML language server completes and checks the document when `anabranch schema > gateway.schema.json` has been run and
this is the first line of the document:

```yaml
# yaml-language-server: $schema=gateway.schema.json
```

## Values

| kind | written as | notes |
| --- | --- | --- |
| duration | `250us`, `250ms`, `2s`, `1m`, `1h`, `1d` | a number needs its unit |
| size | `512`, `64KiB`, `10MiB`, `1GiB`, `5MB` | bytes, when there is no unit |
| ratio | `10%`, `0.1` | between 0 and 1 |
| quantile | `p95`, `p99.9` | of the upstream's recent latency |
| true or false | `true`, `false` | `yes`, `no`, `on` and `off` are plain text in YAML 1.2 |
| name | letters, digits, `_` and `-` | at most 64, beginning with a letter or `_` |

Keys are always text, also without quotes (`404: x`). A key that stands twice is a mistake. Anchors, aliases and merge keys (`<<`) work
within a file. A text that begins with `{`, `[`, `*`, `&`, `!` or `%` needs quotes, and so does a `${...}` inside of braces or brackets.

## Substitution

| written | becomes |
| --- | --- |
| `${NAME}` | the environment variable; it is a mistake if it is not set |
| `${NAME:-default}` | the same, or `default` when it is not set or empty |
| `${file:PATH}` | the text of a file, such as a mounted secret, without the newline at its end; a relative path starts at the document's folder |
| `$${` | a literal `${` |

Substitutions stand in values, never in keys, and may be part of a longer text. What they bring is text; where a number or true or false is
expected and the value is one substitution, it is read as such (`limit: ${LIMIT:-64}`). In a template its braces are literal: it never
becomes a reference. A substituted value is never shown in a message, a log or `anabranch explain`.

## References

The `path`, `query`, `headers`, `body` and `input` of a step and the `body` of a response are templates. `{root.path.to.field}` in them
refers to what the client sent (root `path`, `query`, `header` or `body`) or to the value of a step (its name); `.0` is the first element of
an array. A text that is one reference keeps the JSON type of its value; inside a longer text it becomes text. In the path of a call every
value is percent-encoded as one segment. `{{` and `}}` are literal braces. A step runs as soon as the steps it refers to have finished.

## The document
"""


def reference() -> str:
    """The whole text of docs/reference.md."""
    first, *others = sections()
    return "\n".join([_HEAD, _table(first), *(f"## {model.__name__}\n\n{_intro(model)}{_table(model)}" for model in others)])


def _intro(model: type[BaseModel]) -> str:
    text = " ".join((model.__doc__ or "").split())
    return f"{text}\n\n" if text else ""


def _table(model: type[BaseModel]) -> str:
    rows = [f"| `{key.name}` | {_cell(key.kind)} | {_cell(_default(key))} | {_cell(key.meaning)} |" for key in keys(model)]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _default(key: Key) -> str:
    if key.is_required:
        return "required"
    if not key.has_default:
        return ""
    return f"`{key.default}`" if isinstance(key.default, str) and key.default else f"`{json.dumps(key.default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m anabranch.describe.document_reference FILE")
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
