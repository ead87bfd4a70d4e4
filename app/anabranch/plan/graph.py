"""The dependency graph of an endpoint's steps: cycles, the costliest path, and a topological order. Each takes time in proportion to its size."""

from collections.abc import Mapping, Sequence


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """One cycle as the names along it, the first repeated at the end; None when there is none. `needs`: step -> steps it refers to."""
    done: set[str] = set()
    for start in needs:
        if start not in done:
            cycle = _visit(start, needs, done)
            if cycle:
                return cycle
    return None


def _visit(name: str, needs: Mapping[str, Sequence[str]], done: set[str]) -> list[str] | None:
    trail = {name: iter(needs[name])}  # in the order of the way here; a document may contain a chain longer than the interpreter's stack
    while trail:
        current = next(reversed(trail))
        following = next(trail[current], None)
        if following is None:
            del trail[current]
            done.add(current)
        elif following in trail:
            names = list(trail)
            return [*names[names.index(following) :], following]
        elif following not in done and following in needs:
            trail[following] = iter(needs[following])
    return None


def longest_path(needs: Sequence[Sequence[int]], cost: Sequence[float]) -> tuple[float, list[int]]:
    """The costliest path of an acyclic graph: its cost and its steps in order. `needs[i]`: indexes of the steps that step i waits for."""
    total: dict[int, float] = {}
    before: dict[int, int] = {}
    for index in order(needs):
        costliest = max(needs[index], key=total.__getitem__, default=None)
        if costliest is not None:
            before[index] = costliest
        total[index] = cost[index] + (0.0 if costliest is None else total[costliest])
    if not total:
        return 0.0, []
    path = [max(total, key=total.__getitem__)]
    while path[-1] in before:
        path.append(before[path[-1]])
    return total[path[0]], path[::-1]


def order(needs: Sequence[Sequence[int]]) -> list[int]:
    """A topological order: every step comes after the steps that it needs, in document order where there is a choice."""
    waits = [len(set(before)) for before in needs]
    dependents: list[list[int]] = [[] for _ in needs]
    for index, before in enumerate(needs):
        for need in set(before):
            dependents[need].append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    result: list[int] = []
    while ready:
        result += ready
        freed: list[int] = []
        for index in ready:
            for dependent in dependents[index]:
                waits[dependent] -= 1
                if not waits[dependent]:
                    freed.append(dependent)
        ready = sorted(freed)
    return result
