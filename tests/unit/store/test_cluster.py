"""Which slot a key is in."""

import pytest

from anabranch.store.cluster import slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        # The cluster specification's own example of its CRC16.
        (b"123456789", 0x31C3),
        (b"", 0),
        (b"foo{bar}{zap}", slot_of(b"bar")),
        (b"{user1000}.following", slot_of(b"user1000")),
        (b"foo{{bar}}zap", slot_of(b"{bar")),
    ],
)
def test_the_slot_is_that_of_the_hash_tag(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_empty_braces_are_no_hash_tag() -> None:
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"a{b") != slot_of(b"b")
