"""Keeps Python's garbage collector away from what lives as long as the process does.

A full collection walks everything that is alive: plans, models, libraries, some hundred thousand objects that cannot be garbage. With many
requests under way it comes often and stops all of them for tens of milliseconds. So once the gateway is up, what is there is set apart, and
the collector looks at what requests leave behind only. The figures are in `docs/performance.md`.

For the process that owns itself: nothing here is called by who embeds the application.
"""

import gc
from typing import Final

# Young objects before the collector looks at them. Requests free nearly all of theirs by reference counts long before.
_YOUNG: Final = 10_000


def pause() -> None:
    """Collect nothing until `freeze`: while documents are read and compiled nearly everything that is made stays. A third of the time."""
    gc.disable()


def freeze() -> None:
    """Set apart what is alive now. Collects first: takes as long as one full collection."""
    gc.enable()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.collect()
    gc.freeze()


def refreeze() -> None:
    """The same after a reload: the old document's plans go, the new one's are set apart."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
