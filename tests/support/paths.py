"""Where things are in this repository."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PYTHONPATH: Final = os.pathsep.join((str(ROOT / "app"), str(ROOT)))
"""For processes of their own: the package of this checkout, whatever is installed, and the folders beside it."""
