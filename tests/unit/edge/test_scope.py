from anabranch.edge.scope import join_headers


def test_repeated_header_fields_are_joined() -> None:
    joined = join_headers([(b"a", b"1"), (b"cookie", b"x=1"), (b"a", b"2"), (b"cookie", b"y=2"), (b"b", b"3")])
    assert joined == {b"a": b"1, 2", b"cookie": b"x=1; y=2", b"b": b"3"}
    assert join_headers([]) == {}


def test_hop_by_hop_fields_are_dropped() -> None:
    joined = join_headers([(b"connection", b"keep-alive, X-Private"), (b"x-private", b"1"), (b"x-public", b"2")])
    assert joined == {b"connection": b"keep-alive, X-Private", b"x-public": b"2"}
