"""Settings for all tests: property tests have no deadline and are deterministic in CI."""

import os

from hypothesis import settings

pytest_plugins = ["pytester"]

# A busy machine is not a fault of the code. bench/ measures durations.
settings.register_profile("house", deadline=None)
settings.register_profile("ci", settings.get_profile("house"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "house")
