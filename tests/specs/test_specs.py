"""Every case of every YAML file in this folder, over real sockets. The format is in docs/specs.md."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.gateway import problems_of, running_gateway
from tests.support.spec_document import document_text
from tests.support.spec_model import Case, read_spec_file
from tests.support.specs import CaseFailed, check_problems, run_case

FOLDER = Path(__file__).parent


def _cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}: {case.name}")
        for path in sorted(FOLDER.glob("*.yaml"))
        for case in read_spec_file(path).cases
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def _start(document: str, folder: Path, settings: dict[str, Any]) -> AsyncIterator[int]:
    async with running_gateway(document, folder, **settings) as gateway:
        yield gateway.port


@pytest.mark.parametrize("case", _cases())
def test_spec(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in case.env.items():
        monkeypatch.setenv(name, value)
    for name, content in case.files.items():
        (tmp_path / name).write_text(content, "utf-8")
    try:  # the report of a failed case is complete, so no traceback is needed
        if case.expect_problems is not None:
            check_problems(case, problems_of(document_text(case, {"nobody": 1, **dict.fromkeys(case.upstreams, 1)}, tmp_path), tmp_path))
        else:
            # A new loop for each case, of the kind that `anabranch run` uses, so that cases cannot affect each other.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run_case(case, tmp_path, _start))
    except CaseFailed as failed:
        report = str(failed)
    else:
        return
    pytest.fail(report, pytrace=False)
