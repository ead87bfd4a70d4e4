"""A predictable random source."""

import random


class Draws(random.Random):
    """Returns the given numbers in turn, then always 1."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self._numbers = iter(numbers)

    def random(self) -> float:
        return next(self._numbers, 1.0)
