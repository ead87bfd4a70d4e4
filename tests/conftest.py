"""What holds for every test: property tests have no clock, and are the same in every run of CI."""

import os

from hypothesis import settings

pytest_plugins = ["pytester"]

# A machine that is busy is no fault of the code. What takes too long is measured in bench/.
settings.register_profile("house", deadline=None)
settings.register_profile("ci", settings.get_profile("house"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "house")
