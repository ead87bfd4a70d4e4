"""The dependency graph of an endpoint's steps: cycles, the costliest path, and a topological order."""

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
    """The costliest path of an acyclic graph: its cost and its steps in order. `needs[i]`: indexes of the steps that step i waits for."""
    best: dict[int, tuple[float, list[int]]] = {}

    def reach(index: int) -> tuple[float, list[int]]:
        if index not in best:
            before = max((reach(need) for need in needs[index]), key=lambda item: item[0], default=(0.0, []))
            best[index] = (before[0] + cost[index], [*before[1], index])
        return best[index]

    # A document may contain a chain longer than the interpreter's stack. Topological order keeps the recursion shallow.
    for index in order(needs):
        reach(index)
    return max(best.values(), key=lambda item: item[0], default=(0.0, []))


def order(needs: Sequence[Sequence[int]]) -> list[int]:
    """A topological order: every step comes after the steps that it needs, in document order where there is a choice."""
    done: set[int] = set()
    result: list[int] = []
    pending = list(range(len(needs)))
    while pending:
        ready = [index for index in pending if all(need in done for need in needs[index])]
        if not ready:
            break
        result += ready
        done.update(ready)
        pending = [index for index in pending if index not in done]
    return result
