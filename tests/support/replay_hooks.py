"""Functions of compute steps: the version at the time of recording, and versions changed since."""

from typing import Any, NoReturn


def total(items: list[float]) -> dict[str, float]:
    return {"sum": sum(items), "count": len(items)}


def total_with_mean(items: list[float]) -> dict[str, float]:
    return {"sum": sum(items), "count": len(items), "mean": sum(items) / len(items)}


def total_that_fails(items: list[float]) -> NoReturn:
    raise ValueError(f"not of {len(items)}")


async def label(of: float) -> str:
    return f"about {of:.0f}"


def initials(name: str) -> str:
    """Accepts only names, so a redacted value fails."""
    if not name.isalpha():
        raise ValueError("no name")
    return name[0]


def wrapped(value: Any) -> dict[str, Any]:
    print("what a function prints is no part of a report")  # noqa: T201
    return {"is": value}
