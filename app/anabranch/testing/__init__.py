"""The test kit: tests of gateway documents, and of the Python beside them.

`gateway` runs a document in the process of the test, with a respx router or scripted services; in pytest it is the fixture of that name. The
command `anabranch test`, and pytest, run spec files (see docs/testing.md). The names are imported when they are first used, because pytest loads
this package in every environment that has it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anabranch.testing.inprocess import RunningGateway as RunningGateway
    from anabranch.testing.inprocess import gateway as gateway
    from anabranch.testing.plugin import GatewayFixture as GatewayFixture
    from anabranch.testing.scripted.upstream import ScriptedUpstream as ScriptedUpstream
    from anabranch.testing.services import Call as Call
    from anabranch.testing.services import UnexpectedCall as UnexpectedCall

_HOMES: Final = {
    "Call": "anabranch.testing.services",
    "GatewayFixture": "anabranch.testing.plugin",
    "RunningGateway": "anabranch.testing.inprocess",
    "ScriptedUpstream": "anabranch.testing.scripted.upstream",
    "UnexpectedCall": "anabranch.testing.services",
    "gateway": "anabranch.testing.inprocess",
}
__all__ = ["Call", "GatewayFixture", "RunningGateway", "ScriptedUpstream", "UnexpectedCall", "gateway"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anabranch.testing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
