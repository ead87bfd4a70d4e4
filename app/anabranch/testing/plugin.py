"""The pytest plugin: the fixture `gateway`, and spec files as tests where the option `anabranch_specs` names their folders.

pytest loads this module in every environment that has Anabranch installed, so everything else is imported when a test needs it.
"""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    import respx
    from _pytest._code.code import ExceptionInfo, TerminalRepr

    from anabranch.testing.inprocess import GatewayInProcess
    from anabranch.testing.specs.read import Spec


class GatewayFixture(Protocol):
    """The type of the fixture `gateway`."""

    def __call__(
        self,
        document: str | PathLike[str] | Mapping[str, Any],
        services: "respx.Router | Mapping[str, Any]",
        *,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> "GatewayInProcess":
        """See `anabranch.testing.gateway`. A relative path starts at pytest's root folder."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("anabranch_specs", "Folders of Anabranch spec files to collect, from the folder of this file.", type="paths", default=[])
    parser.addini(
        "anabranch_document", "The gateway document that spec files test which name none, from the folder of this file.", type="paths"
    )


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> GatewayFixture:
    """Runs a gateway document in the process, over a respx router or scripted services."""
    from anabranch.testing.inprocess import gateway as made

    root = request.config.rootpath

    def opened(
        document: str | PathLike[str] | Mapping[str, Any],
        services: "respx.Router | Mapping[str, Any]",
        *,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> "GatewayInProcess":
        at = document if isinstance(document, Mapping) else root / document
        return made(at, services, env=env, **settings)

    return opened


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "SpecFile | None":
    folders: Iterable[Path] = parent.config.getini("anabranch_specs")
    if file_path.suffix in (".yaml", ".yml") and any(file_path.is_relative_to(folder) for folder in folders):
        return SpecFile.from_parent(parent, path=file_path)
    return None


class SpecFile(pytest.File):
    """A spec file, whose cases are tests."""

    def collect(self) -> "Iterator[SpecItem]":
        from anabranch.testing.specs.read import SpecError, read_spec_file

        documents: list[Path] = self.config.getini("anabranch_document") or []
        try:
            specs = read_spec_file(self.path, default=documents[0] if documents else None)
        except SpecError as error:
            raise self.CollectError(str(error)) from error
        for spec in specs:
            yield SpecItem.from_parent(self, name=spec.case.name, spec=spec)


class SpecItem(pytest.Item):
    """One case."""

    def __init__(self, *, spec: "Spec", **options: Any) -> None:
        super().__init__(**options)
        self.spec = spec

    def runtest(self) -> None:
        from anabranch.testing.specs.run import run_spec

        run_spec(self.spec)

    def repr_failure(self, excinfo: "ExceptionInfo[BaseException]", style: Any = None) -> "str | TerminalRepr":
        """The report of the case, which is complete without a traceback."""
        from anabranch.testing.specs.read import SpecError
        from anabranch.testing.specs.run import CaseFailed

        if isinstance(excinfo.value, CaseFailed | SpecError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.spec.line - 1, self.name
