"""Settings for all tests. Property tests have no deadline and try the same inputs every time: `ANABRANCH_TEST_RANDOM=1` makes them look for new ones."""

import os

from hypothesis import settings

pytest_plugins = ["pytester"]

# A busy machine is not a fault of the code. bench/ measures durations.
settings.register_profile("house", deadline=None)
settings.register_profile("same", settings.get_profile("house"), derandomize=True)
settings.load_profile("house" if os.environ.get("ANABRANCH_TEST_RANDOM") else "same")
