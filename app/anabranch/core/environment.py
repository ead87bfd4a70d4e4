"""The environment of the process, with `.env`."""

import os
from typing import Final

from dotenv import dotenv_values

DOTENV: Final = ".env"


def environment() -> dict[str, str]:
    """The environment, with what `.env` in the working directory adds. The environment takes precedence."""
    added = {name: value for name, value in dotenv_values(DOTENV).items() if value is not None}
    return {**added, **os.environ}
