"""Decides by the rules of a document, before it is known what a request asks for."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from anabranch.core.forwarding import Client, TrustedProxies, client_address
from anabranch.core.percent import parse_query
from anabranch.errors import ConditionFailed, Forbidden, NotFound, RequestError
from anabranch.guard.addresses import REFUSED
from anabranch.guard.tally import Tally
from anabranch.jsontext.frame import Frame
from anabranch.plan.rules import RulePlan, RulesPlan

_DETAIL: Final = "a rule of this API refuses the request"
_UNKNOWN: Final = "no endpoint has this path"
_MOST_FRAMES: Final = 1000


class Asked:
    """What rules may refer to. `path`: decoded, without the query, below the application's root path; `query`: raw; `headers`: by lower-case name."""

    __slots__ = ("_client", "_query", "headers", "method", "path", "query")

    def __init__(self, method: str, path: str, query: bytes, headers: dict[bytes, bytes], client: Callable[[], Client]) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self._client = client
        self._query: Mapping[str, list[str | None]] | None = None

    def frames(self, slots: Sequence[tuple[str, str]]) -> Iterator[Frame]:
        """The values of these references: a frame for each choice among the values of repeated query parameters. Whoever serves the request may read any of them, so
        a rule must not be evaded by another one in front. Raises ConditionFailed when there are too many."""
        values = [self._read(root, name) for root, name in slots]
        if math.prod(map(len, values)) > _MOST_FRAMES:
            raise ConditionFailed("query parameters are repeated too often")
        return map(list, product(*values))

    def _read(self, root: str, name: str) -> list[str]:
        """The values of a reference; "" if there is none."""
        if root == "header":
            return [self.headers.get(name.encode(), b"").decode("utf-8", "replace")]
        if root == "query":
            if self._query is None:
                self._query = parse_query(self.query)
            return [value or "" for value in self._query.get(name, [None])]
        if root == "client":
            return [self._client().text]
        if name == "method":
            return [self.method]
        return [self.path if name == "path" else self.headers.get(b"host", b"").decode("latin-1")]


class Rules:
    """The rules of one document. `proxies`: in front of the gateway."""

    def __init__(self, plan: RulesPlan, proxies: TrustedProxies, tally: Tally) -> None:
        self._networks = plan.networks
        self._rules = tuple((str(index), rule) for index, rule in enumerate(plan.rules))
        self._proxies = proxies
        self._tally = tally

    def refusal(
        self, method: str, paths: Sequence[str], query: bytes, headers: dict[bytes, bytes], client: tuple[str, int] | None
    ) -> RequestError | None:
        """Why a request is refused; None when it is not. What cannot be decided is refused. `paths`: the readings of its path; what is refused in one of them is refused."""

        def sender() -> Client:
            return client_address(headers, client, self._proxies)

        if self._networks is not None and not self._networks.admits(sender().ip):
            self._tally.refuse("address")
            return Forbidden(REFUSED)
        if self._rules:
            readings = [Asked(method, path, query, headers, sender) for path in paths]
            for number, rule in self._rules:
                if any(self._is_denied(number, rule, asked) for asked in readings):
                    self._tally.refuse(number)
                    return _error(rule)
        return None

    def _is_denied(self, number: str, rule: RulePlan, asked: Asked) -> bool:
        try:
            return any(map(rule.deny, asked.frames(rule.slots)))
        except ConditionFailed as error:
            self._tally.fail(number, error.detail)
            return True


def _error(rule: RulePlan) -> RequestError:
    if rule.status == 404:
        return NotFound(_UNKNOWN)
    error = Forbidden(rule.detail or _DETAIL)
    error.status = rule.status
    return error
