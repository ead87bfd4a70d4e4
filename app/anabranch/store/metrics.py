"""Metrics of the shared store. Apart from it, because its library is an extra."""

from typing import Final

from anabranch.core.metric import metric

STORE_OPERATIONS: Final = metric(
    "counter", "store_operations", "operation result",
    "Operations on the shared store. `result`: `ok`; `away` (known to be away: nothing was sent); `lost` (no reply, or not in time); `refused` (an error "
    "reply).",
)  # fmt: skip
STORE_SECONDS: Final = metric(
    "counter", "store_seconds", "operation", "Time until the shared store had answered, of the operations with the result `ok`."
)
STORE_AWAY: Final = metric("gauge", "store_away", "", "1 while the shared store, or a node of it, is away.")
