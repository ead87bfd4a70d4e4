"""What the log says of a store that is away."""

import logging

import pytest

from anabranch.store.trouble import Trouble


def test_the_log_has_each_reason_once_in_each_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "anabranch.store")
    trouble = Trouble("the store")
    for _ in range(2):
        for reason in ("closed", "closed", "wants a password", "closed", "wants a password"):
            trouble.begin(reason)
        assert trouble.reason == "wants a password"
        trouble.end()
        trouble.end()
    said = ["the store is away: closed", "the store is still away: wants a password", "the store is back after 0.0 s"]
    assert caplog.messages == said * 2
