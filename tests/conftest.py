"""Settings for all tests. Property tests have no deadline and try the same inputs every time: `ANABRANCH_TEST_RANDOM=1` makes them look for new ones."""

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.valkey import ValkeyServer

pytest_plugins = ["pytester"]

# A busy machine is not a fault of the code. bench/ measures durations.
settings.register_profile("house", deadline=None)
settings.register_profile("same", settings.get_profile("house"), derandomize=True)
settings.load_profile("house" if os.environ.get("ANABRANCH_TEST_RANDOM") else "same")


@pytest.fixture(scope="session")
def shared_valkey() -> "Iterator[ValkeyServer]":
    from tests.support.valkey import ValkeyServer

    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: "ValkeyServer") -> "Iterator[ValkeyServer]":
    """A running Valkey, which all tests share: take a prefix of your own. It runs again after a test that stopped or froze it."""
    yield shared_valkey
    shared_valkey.thaw()
    shared_valkey.start()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nearly everything that is collected stays: the garbage collector need not look at it, neither now nor in each test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
