"""What services are told of the client. **Source:** RFC 7239."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.forwarding import Arrival, Fields, TrustedProxies, carrier_of, public_prefix

ALL = ("0.0.0.0/0", "::/0", "unix")
HOST = {b"host": b"g"}


def told(
    client: str | None = "192.0.2.1",
    headers: dict[bytes, bytes] | None = None,
    *,
    trusted: tuple[str, ...] = (),
    scheme: str = "http",
    root_path: str = "",
) -> dict[bytes, bytes]:
    at = None if client is None else (client, 4711)
    fields = Arrival(HOST if headers is None else HOST | headers, at, scheme, root_path, TrustedProxies(trusted)).appended()
    assert len(dict(fields)) == len(fields)
    return dict(fields)


@pytest.mark.parametrize(
    ("client", "address", "node"),
    [
        ("192.0.2.1", b"192.0.2.1", b"192.0.2.1"),
        ("2001:DB8::1", b"2001:db8::1", b'"[2001:db8::1]"'),
        ("fe80::1%eth0", b"fe80::1", b'"[fe80::1]"'),
        ("::ffff:192.0.2.1", b"192.0.2.1", b"192.0.2.1"),
        (None, None, b"unknown"),
        ("", None, b"unknown"),
        ("testclient", None, b"unknown"),
    ],
)
def test_an_address_is_written_as_each_field_wants_it(client: str | None, address: bytes | None, node: bytes) -> None:
    """RFC 7239 section 6: IPv6 in brackets and quotes, and `unknown` for a peer without an address."""
    fields = told(client)
    assert fields.get(b"x-forwarded-for") == address
    assert fields[b"forwarded"] == b"for=" + node + b";host=g;proto=http"


def test_the_gateway_says_by_which_scheme_and_path_it_is_reached() -> None:
    fields = told(scheme="https", root_path="/api")
    assert fields[b"x-forwarded-proto"] == b"https"
    assert fields[b"x-forwarded-prefix"] == b"/api"
    assert fields[b"forwarded"].endswith(b";proto=https")


@pytest.mark.parametrize("host", [b"", b"a b", b"a,b", b'a"b', b"a;b\x01", "ä".encode(), b"x" * 300])
def test_a_host_that_is_none_is_not_told(host: bytes) -> None:
    fields = told(headers={b"host": host})
    assert b"x-forwarded-host" not in fields
    assert fields[b"forwarded"] == b"for=192.0.2.1;proto=http"


@pytest.mark.parametrize(
    ("trusted", "client", "is_trusted"),
    [
        ((), "192.0.2.1", False),
        (("192.0.2.1",), "192.0.2.1", True),
        (("192.0.2.0/24",), "192.0.2.200", True),
        (("192.0.2.0/24",), "192.0.3.1", False),
        (("192.0.2.0/24",), "::ffff:192.0.2.200", True),
        (("2001:db8::/32",), "2001:db8:1::1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("unix",), None, True),
        (("unix",), "192.0.2.1", False),
        (("0.0.0.0/0", "::/0"), None, False),
    ],
)
def test_only_a_trusted_peer_is_believed(trusted: tuple[str, ...], client: str | None, is_trusted: bool) -> None:
    fields = told(client, {b"x-forwarded-for": b"203.0.113.7"}, trusted=trusted)
    assert fields.get(b"x-forwarded-for", b"").startswith(b"203.0.113.7") is is_trusted
    assert fields[b"forwarded"].startswith(b"for=203.0.113.7, ") is is_trusted


def test_a_chain_through_a_unix_socket_ends_with_the_last_address() -> None:
    fields = told(None, {b"x-forwarded-for": b"203.0.113.7"}, trusted=("unix",))
    assert fields[b"x-forwarded-for"] == b"203.0.113.7"
    assert fields[b"forwarded"] == b"for=203.0.113.7, for=unknown;host=g;proto=http"


@pytest.mark.parametrize(
    ("hop", "kept", "node"),
    [
        (b"203.0.113.7:4711", b"203.0.113.7:4711", b'"203.0.113.7:4711"'),
        (b"[2001:db8::7]:4711", b"[2001:db8::7]:4711", b'"[2001:db8::7]:4711"'),
        (b'"[2001:db8::7]"', b"[2001:db8::7]", b'"[2001:db8::7]"'),
        (b"2001:db8::7", b"2001:db8::7", b'"[2001:db8::7]"'),
        (b"unknown", b"unknown", b"unknown"),
        (b"_gazonk", b"_gazonk", b"_gazonk"),
        (b"-", b"-", b"unknown"),
        (b"proxy.example", b"proxy.example", b"unknown"),
    ],
)
def test_the_hops_of_other_proxies_are_kept_and_translated(hop: bytes, kept: bytes, node: bytes) -> None:
    """RFC 7239 sections 6.2 (unknown), 6.3 (obfuscated) and 7.4 (translation): a name is no node."""
    fields = told(headers={b"x-forwarded-for": hop}, trusted=ALL)
    assert fields[b"x-forwarded-for"] == kept + b", 192.0.2.1"
    assert fields[b"forwarded"] == b"for=" + node + b", for=192.0.2.1;host=g;proto=http"


@pytest.mark.parametrize(
    ("forwarded", "hops"),
    [
        (b"for=203.0.113.7", b"203.0.113.7"),
        (b'FOR="203.0.113.7:80"', b"203.0.113.7"),
        (b'for="[2001:db8::7]:4711"', b"2001:db8::7"),
        (b"for=_a;by=203.0.113.43, for=unknown", b"_a, unknown"),
        (b"proto=https", b"unknown"),
        (b"for=203.0.113.7 ; proto=https ,, for=203.0.113.8;", b"203.0.113.7, 203.0.113.8"),
        (b'for="_\\a", for="a,b"', b"_a, unknown"),
    ],
)
def test_the_elements_of_forwarded_become_hops(forwarded: bytes, hops: bytes) -> None:
    assert told(headers={b"forwarded": forwarded}, trusted=ALL)[b"x-forwarded-for"] == hops + b", 192.0.2.1"


@pytest.mark.parametrize(
    "forwarded", [b"for", b"for=", b'for="a', b"for=a b", b"for=[::1]", b"for=a;;by=b", b"=a", b"for=a\xff", b";for=a"]
)
def test_a_forwarded_field_that_breaks_its_grammar_is_dropped(forwarded: bytes) -> None:
    assert told(headers={b"forwarded": forwarded}, trusted=ALL)[b"forwarded"] == b"for=192.0.2.1;host=g;proto=http"


def test_a_scheme_and_host_of_several_proxies_are_kept() -> None:
    headers = {b"x-forwarded-proto": b"https, http", b"x-forwarded-host": b"a.example, b.example", b"x-forwarded-for": b"203.0.113.7"}
    fields = told(headers=headers, trusted=ALL)
    assert (fields[b"x-forwarded-proto"], fields[b"x-forwarded-host"]) == (b"https, http", b"a.example, b.example")
    assert fields[b"forwarded"].startswith(b"for=203.0.113.7;host=a.example;proto=https, for=192.0.2.1")


def test_a_long_chain_loses_its_farthest_hops() -> None:
    many = [b"10.0.%d.%d" % (number // 256, number % 256) for number in range(1000)]
    fields = told(headers={b"x-forwarded-for": b", ".join(many)}, trusted=ALL)
    hops = fields[b"x-forwarded-for"].split(b", ")
    assert hops == [*many, b"192.0.2.1"][-len(hops) :]
    assert 100 < len(hops) < 300
    assert len(fields[b"x-forwarded-for"]) <= 2048
    assert len(fields[b"forwarded"]) <= 2048
    long = told(headers={b"x-forwarded-for": b"1" * 5000, b"forwarded": b"for=" + b"a" * 5000}, trusted=ALL)
    assert long[b"x-forwarded-for"] == b"192.0.2.1"
    assert long[b"forwarded"] == b"for=192.0.2.1;host=g;proto=http"


@given(
    st.sampled_from([None, "192.0.2.1", "::1"]),
    st.dictionaries(
        st.sampled_from([b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"forwarded", b"host"]),
        st.one_of(st.binary(max_size=40), st.text('for=;,"\\ :[].1a_', max_size=40).map(str.encode)),
    ),
)
def test_whatever_comes_what_is_told_is_safe_and_ends_with_the_peer(client: str | None, headers: dict[bytes, bytes]) -> None:
    fields = told(client, headers, trusted=ALL)
    for value in fields.values():
        assert value
        assert all(0x20 <= byte < 0x7F for byte in value)
        assert len(value) <= 2048
    own = dict(Arrival(HOST | headers, None if client is None else (client, 1), "http", "", TrustedProxies()).replaced())
    assert fields[b"forwarded"].endswith(own[b"forwarded"])
    assert fields[b"forwarded"].count(b'"') % 2 == 0 or b"\\" in fields[b"forwarded"]


def test_each_form_is_rendered_once() -> None:
    arrival = Arrival(HOST, ("192.0.2.1", 1), "http", "", TrustedProxies(("192.0.2.1",)))
    assert arrival.appended() is arrival.appended()
    assert arrival.replaced() is arrival.replaced()


def test_what_is_told_is_behind_what_a_call_carries_anyway() -> None:
    always: Fields = ((b"x-request-id", b"r"),)
    arrival = Arrival(HOST, ("192.0.2.1", 1), "http", "", TrustedProxies())
    assert carrier_of("off")(always, arrival) is always
    assert carrier_of("append")(always, None) is always
    assert carrier_of("replace")(always, None) is always
    assert carrier_of("append")(always, arrival) == (*always, *arrival.appended())
    assert carrier_of("replace")(always, arrival) == (*always, *arrival.replaced())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("*", "0.0.0.0/0,::/0"),
        ("proxy.example", "neither an address"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "neither an address"),
        ("", "neither an address"),
    ],
)
def test_what_is_no_network_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrustedProxies([name])


def test_many_peers_take_bounded_memory() -> None:
    proxies = TrustedProxies(("10.0.0.0/8",))
    for number in range(10_000):
        assert proxies.peer(f"10.0.{number // 256}.{number % 256}").is_trusted
    assert len(proxies._peers) <= 4096


def test_a_prefix_is_a_plain_path() -> None:
    assert public_prefix(b"/a/", "/b") == "/a/b"
    assert public_prefix(b"//evil", "") == ""
    assert public_prefix(b"/a b", "") == ""


def test_how_a_service_is_reached_does_not_depend_on_the_client() -> None:
    one, other = (Arrival(HOST, (client, 1), "https", "/p", TrustedProxies()) for client in ("192.0.2.1", "192.0.2.2"))
    assert one.reached() == other.reached()
    assert dict(one.reached()) == {b"x-forwarded-proto": b"https", b"x-forwarded-host": b"g", b"x-forwarded-prefix": b"/p"}


def test_what_was_rendered_is_kept_in_bounded_memory_and_for_the_same_request_only() -> None:
    proxies = TrustedProxies(ALL)
    for number in range(3000):
        hop = b"203.0.%d.%d" % (number // 256, number % 256)
        for _ in range(2):
            fields = dict(Arrival(HOST | {b"x-forwarded-for": hop}, ("192.0.2.1", 1), "http", "", proxies).appended())
            assert fields[b"x-forwarded-for"] == hop + b", 192.0.2.1"
    assert len(proxies.rendered) <= 1024
    proxies.rendered.clear()
    Arrival({b"host": b"g" * 60_000, b"x-forwarded-for": b"1" * 60_000}, ("192.0.2.1", 1), "http", "", proxies).appended()
    assert not proxies.rendered
    by_header = [
        Arrival(HOST | headers, ("192.0.2.1", 1), scheme, path, proxies).appended()
        for headers in (
            {},
            {b"x-forwarded-proto": b"https"},
            {b"x-forwarded-host": b"https"},
            {b"x-forwarded-prefix": b"/https"},
            {b"host": b"o"},
        )
        for scheme in ("http", "wss")
        for path in ("", "/p")
    ]
    assert len(set(by_header)) == len(by_header)
