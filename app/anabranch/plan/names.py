"""Numbers in place of the names of steps and upstreams, for documents that keep these to themselves (`defaults.public_names`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numbers:
    """The number of each name as text, from 1 on in the order of the document."""

    steps: Mapping[str, str]
    upstreams: Mapping[str, str]


def numbered(steps: Iterable[str], upstreams: Iterable[str]) -> Numbers:
    return Numbers(_numbers(steps), _numbers(upstreams))


def _numbers(names: Iterable[str]) -> dict[str, str]:
    return {name: str(number) for number, name in enumerate(dict.fromkeys(names), 1)}
