"""How the values of the visible steps are merged into a response, here and in a worker process."""

from collections.abc import Sequence

from anabranch.config import model as config
from anabranch.jsontext import merge
from anabranch.jsontext.order import merging
from anabranch.jsontext.raw import Tree


def assemble_steps(response: config.Response, visible: list[tuple[int, str]], *, may_be_absent: bool) -> merge.Assemble:
    """What merges the visible steps (index, name). `may_be_absent`: some of them may be left out."""
    if response.merge == "flat":
        return merge.flat(visible)
    if response.merge == "deep":
        return merge.deep(visible, concat_arrays=response.arrays == "concat")
    return merge.group(visible, may_be_absent=may_be_absent)


def merge_order(response: config.Response, names: Sequence[str] = (), pick: Tree | None = None) -> str:
    """The order for a worker process (`anabranch.jsontext.order`); "" when the values are only placed. `names`: of the visible steps. `pick`: what is kept
    of the merged value; None: everything."""
    if "body" in response.model_fields_set or (response.merge == "group" and pick is None):
        return ""
    kind = "deep_concat" if response.merge == "deep" and response.arrays == "concat" else response.merge
    return merging(kind, names if kind == "group" else (), pick)
