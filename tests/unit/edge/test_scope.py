from anabranch.edge.scope import join_headers, readings


def test_repeated_header_fields_are_joined() -> None:
    joined = join_headers([(b"a", b"1"), (b"cookie", b"x=1"), (b"a", b"2"), (b"cookie", b"y=2"), (b"b", b"3")])
    assert joined == {b"a": b"1, 2", b"cookie": b"x=1; y=2", b"b": b"3"}
    assert join_headers([]) == {}


def test_hop_by_hop_fields_are_dropped() -> None:
    joined = join_headers([(b"connection", b"keep-alive, X-Private"), (b"x-private", b"1"), (b"x-public", b"2")])
    assert joined == {b"connection": b"keep-alive, X-Private", b"x-public": b"2"}


def test_a_client_cannot_take_back_by_connection_what_a_proxy_says_of_it() -> None:
    lines = [(b"connection", b"X-Forwarded-For, forwarded, host, x-forwarded-proto"), (b"x-forwarded-for", b"192.0.2.1"), (b"host", b"a")]
    assert join_headers(lines) == dict(lines)


def test_a_path_has_a_reading_for_endpoints_and_one_for_routers_in_python() -> None:
    assert readings({"path": "/a/b", "raw_path": b"/%61/b"}) == ("/a/b",)
    assert readings({"path": "/a/b", "raw_path": b"/a%2fb"}) == ("/a%2Fb", "/a/b")
    assert readings({"path": "/gw/a", "raw_path": b"/%67w/a", "root_path": "/gw"}) == ("/gw/a", "/a")
    assert readings({"path": "/\ufffd/\u00e9", "raw_path": b"/%ff/%c3%a9"}) == ("/\ufffd/\u00e9",)
    assert readings({"path": "/a%2Fb"}) == ("/a%2Fb",)
