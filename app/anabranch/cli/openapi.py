"""`anabranch openapi` and `anabranch schema`: describe the API for clients, and documents for editors."""

from typing import Annotated

import msgspec
import orjson
import typer

from anabranch.cli.document import compile_or_exit
from anabranch.cli.options import Document, Output, write
from anabranch.describe.document_schema import document_schema
from anabranch.document.compile import Compiled
from anabranch.edge.app import build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.engine.run import Engine
from anabranch.jsontext import values


def openapi(document: Document, output: Output = None) -> None:
    """Write the API description (OpenAPI 3.1) of a document."""
    write(describe(compile_or_exit(document)), output)


def schema(
    output: Output = None,
    specs: Annotated[bool, typer.Option("--specs", help="The schema of spec files instead, for `anabranch test`.")] = False,
) -> None:
    """Write the JSON Schema of gateway documents, for editors."""
    if specs:
        from anabranch.testing.specs.schema import spec_schema  # noqa: PLC0415 - the other commands start without the test kit

        made = spec_schema()
    else:
        made = document_schema()
    write(orjson.dumps(made, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), output)


def describe(compiled: Compiled) -> bytes:
    """The API description of a compiled document as indented JSON: as the gateway serves it at /openapi.json."""
    plane = DataPlane(Engine().bind)
    plane.load(compiled.plan)
    app = build_app(plane=plane, routers=compiled.routers)
    return msgspec.json.format(values.write(app.openapi()), indent=2) + b"\n"
