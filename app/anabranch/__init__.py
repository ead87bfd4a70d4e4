"""Anabranch: an API aggregation gateway. A request branches out to many services and rejoins as one JSON document.

What users may import stands here and in `anabranch.testing`; everything deeper may change in any version. The names are imported when they are
first used: worker processes import this package too, and need none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anabranch.compute.refusal import Refused as Refused
    from anabranch.core.principal import Principal as Principal
    from anabranch.document.authenticated import authenticated as authenticated
    from anabranch.edge.python import Fan as Fan
    from anabranch.edge.python import FanAnswer as FanAnswer
    from anabranch.edge.python import FanCall as FanCall
    from anabranch.edge.python import FanOut as FanOut
    from anabranch.edge.python import FanOutFailed as FanOutFailed
    from anabranch.edge.python import Outcome as Outcome
    from anabranch.edge.python import segment as segment
    from anabranch.main import create_app as create_app
    from anabranch.settings import Settings as Settings

__version__ = "0.1.0"

_HOMES: Final = {
    "Fan": "anabranch.edge.python",
    "FanAnswer": "anabranch.edge.python",
    "FanCall": "anabranch.edge.python",
    "FanOut": "anabranch.edge.python",
    "FanOutFailed": "anabranch.edge.python",
    "Outcome": "anabranch.edge.python",
    "Principal": "anabranch.core.principal",
    "Refused": "anabranch.compute.refusal",
    "Settings": "anabranch.settings",
    "authenticated": "anabranch.document.authenticated",
    "create_app": "anabranch.main",
    "segment": "anabranch.edge.python",
}
__all__ = [
    "Fan", "FanAnswer", "FanCall", "FanOut", "FanOutFailed", "Outcome", "Principal", "Refused", "Settings", "__version__", "authenticated", "create_app", "segment",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anabranch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
