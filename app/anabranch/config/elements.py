"""Steps and lists in the document: many elements in one run, results that go into elements, and two lists that are joined."""

from typing import Literal

from pydantic import Field

from anabranch.config.base import JSONName, JSONPath, JSONPaths, Model
from anabranch.config.units import Count, Duration


class Batch(Model):
    """Many elements in one run. Its templates know the keys of these as `{batch}`, an array."""

    size: Count = Field(50, ge=1, le=10_000)
    """Maximum keys of one run."""
    key: str
    """The key of an element: `"{item.product_id}"`. Equal keys are asked for once."""
    match: JSONPath
    """The path of the key in each element of the answer, which is an array after `target`. Keys are compared as text: `17` and `"17"` are the same. An element
    without a match has `default` or null; that is no failure."""
    at_once: Count = Field(4, ge=1, le=1000)
    """Maximum concurrent runs."""
    window_s: Duration | None = Field(None, alias="window")
    """Wait this long for the keys of other requests, and ask for all of them in one run. Requests share a run only if it is the same for each of them but
    for the keys. If unset, each request asks for itself."""


class Into(Model):
    """Where the results of a step with `each` go."""

    into: JSONPaths
    """The elements, as `each` names them, without braces: `orders.items`."""
    as_: JSONName = Field(alias="as")
    """The member of each element that holds its result."""


class Lists(Model):
    """Two lists that are joined."""

    left: str
    """The list whose elements get what matches them: a reference to an array, `{orders.items}`."""
    right: str
    """The list in which matches are sought: a reference to an array, `{products}`."""
    on: dict[JSONPath, JSONPath] = Field(min_length=1)
    """What has to be equal: `{path in a left element: path in a right element}`; several pairs must all be. Values are compared as text: `17` and `"17"` are
    equal. Null, or a path without a value, matches nothing."""
    as_: JSONName = Field(alias="as")
    """The member of each left element that holds what matches it."""
    kind: Literal["left", "inner"] = "left"
    """What happens to a left element without a match: `left`: it is kept, with null; `inner`: it is dropped."""
    many: bool = False
    """If true, an array of everything that matches. Otherwise the first."""
