"""Freezes long-lived objects so that the garbage collector skips them.

A full collection walks every live object: plans, models, libraries, several hundred thousand objects that cannot be garbage. With many
requests in flight it runs often and stops all of them for tens of milliseconds. So once the gateway is up, its objects are frozen, and the
collector only looks at what requests leave behind. The figures are in `docs/performance.md`.

Called by the command line only, never by an application that embeds the gateway: these settings affect the whole process.
"""

import gc
from typing import Final

# Young objects before the collector looks at them. Reference counts free nearly all objects of a request long before that.
_YOUNG: Final = 10_000


def pause() -> None:
    """Disable collection until `freeze` or `resume`. While documents are read and compiled, nearly every new object stays; this saves a third of the
    time."""
    gc.disable()


def resume() -> None:
    """End a pause, if there is one, without a collection: freeze what was made meanwhile. After imports, which leave nearly no garbage."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def freeze() -> None:
    """Freeze every live object. Collects first, so it takes as long as one full collection."""
    gc.enable()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.collect()
    gc.freeze()


def refreeze() -> None:
    """Freeze again after a reload: the old document's plans are collected, the new ones frozen."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
