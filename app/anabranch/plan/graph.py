"""The graph of an endpoint's steps: who needs whom, cycles, and the longest way through."""

from collections.abc import Mapping, Sequence


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """One cycle as the names along it, the first repeated at the end; None when there is none. `needs`: step -> steps it refers to."""
    done: set[str] = set()
    for start in needs:
        trail: list[str] = []
        if start not in done:
            cycle = _visit(start, needs, trail, done)
            if cycle:
                return cycle
    return None


def _visit(name: str, needs: Mapping[str, Sequence[str]], trail: list[str], done: set[str]) -> list[str] | None:
    stack = [(name, iter(needs.get(name, ())))]
    trail.append(name)
    while stack:
        current, rest = stack[-1]
        following = next(rest, None)
        if following is None:
            stack.pop()
            trail.pop()
            done.add(current)
        elif following in trail:
            return [*trail[trail.index(following) :], following]
        elif following not in done and following in needs:
            stack.append((following, iter(needs[following])))
            trail.append(following)
    return None


def longest_path(needs: Sequence[Sequence[int]], cost: Sequence[float]) -> tuple[float, list[int]]:
    """The costliest chain of an acyclic graph: its cost and its steps in order. `needs[i]`: indexes that step i waits for."""
    best: dict[int, tuple[float, list[int]]] = {}

    def reach(index: int) -> tuple[float, list[int]]:
        if index not in best:
            before = max((reach(need) for need in needs[index]), key=lambda item: item[0], default=(0.0, []))
            best[index] = (before[0] + cost[index], [*before[1], index])
        return best[index]

    # Steps are few and chains short, but a document may hold a chain longer than the interpreter's stack: go in order of need.
    for index in order(needs):
        reach(index)
    return max(best.values(), key=lambda item: item[0], default=(0.0, []))


def order(needs: Sequence[Sequence[int]]) -> list[int]:
    """An order in which every step comes after what it needs; document order among equals."""
    placed: set[int] = set()
    result: list[int] = []
    waiting = list(range(len(needs)))
    while waiting:
        ready = [index for index in waiting if all(need in placed for need in needs[index])]
        if not ready:
            break
        result += ready
        placed.update(ready)
        waiting = [index for index in waiting if index not in placed]
    return result
