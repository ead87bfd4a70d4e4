"""Who the client is behind proxies. Several cases were reported of other gateways and limiters."""

import pytest

from anabranch.core.forwarding import TrustedProxies, client_address

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48", "unix"])
PROXY = ("10.0.0.1", 4711)


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.1.1.1, 10.2.2.2", "203.0.113.7"),  # several trusted hops (Kong #13599)
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),  # what the client itself sent stands further left (Kong #7948, fastapi-limiter #9)
        ("10.3.3.3, 203.0.113.7", "203.0.113.7"),  # a client cannot claim to be a trusted proxy
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),  # all of them are ours
        ("203.0.113.7:52713", "203.0.113.7"),  # some proxies send ports, new ones for each connection (express-rate-limit #234)
        ("[2001:db8::7]:52713", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),  # a listener for both families
        ("fe80::1%eth0", "fe80::1"),
        ('"203.0.113.7"', "203.0.113.7"),
        ("203.0.113.7, unknown", "10.0.0.1"),  # the hop before is known to nobody: the proxy that says so is the client
        ("203.0.113.7, _hidden", "10.0.0.1"),
        ("203.0.113.7,", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("x" * 5000, "10.0.0.1"),
        ("\x00\xff, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.0/24", "10.0.0.1"),
        ("1.2.3", "10.0.0.1"),
        ("0x7f.1, 0177.0.0.1", "10.0.0.1"),
    ],
)
def test_last_hop_that_is_no_trusted_proxy_is_the_client(forwarded_for: str, client: str) -> None:
    headers = {b"x-forwarded-for": forwarded_for.encode("latin-1")}
    assert client_address(headers, PROXY, PROXIES).text == client
    assert client_address(headers, ("192.0.2.9", 1), PROXIES).text == "192.0.2.9", "nobody believes a peer that is no proxy"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("for=203.0.113.7;proto=https, for=10.1.1.1", "203.0.113.7"),
        ('For="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=unknown", "10.0.0.1"),
        ("for=_obfuscated", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ('for="203.0.113.7', "10.0.0.1"),  # an open quote
    ],
)
def test_forwarded_counts_where_the_other_field_is_absent(forwarded: str, client: str) -> None:
    assert client_address({b"forwarded": forwarded.encode()}, PROXY, PROXIES).text == client
    both = {b"forwarded": forwarded.encode(), b"x-forwarded-for": b"198.51.100.1"}
    assert client_address(both, PROXY, PROXIES).text == "198.51.100.1"


def test_unix_socket_has_no_address_of_its_own() -> None:
    assert client_address({}, None, PROXIES).text == ""
    assert client_address({b"x-forwarded-for": b"203.0.113.7"}, None, PROXIES).text == "203.0.113.7"
    assert client_address({b"x-forwarded-for": b"203.0.113.7"}, None, TrustedProxies()).ip is None


def test_subscriber_of_ipv6_is_one_client() -> None:
    """Traefik #9721: else one machine has 2^64 addresses to come from."""
    one, same, other = (
        client_address({}, (host, 1), PROXIES).network for host in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")
    )
    assert one == same != other
    assert client_address({}, ("203.0.113.7", 1), PROXIES).network != client_address({}, ("203.0.113.8", 1), PROXIES).network


def test_what_clients_send_does_not_fill_the_memory() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    for number in range(10_000):
        client_address({b"x-forwarded-for": b"203.0.113.7, 192.0.2.%d, %d" % (number % 256, number)}, PROXY, proxies)
    client_address({b"x-forwarded-for": b"203.0.113.7" + b" " * 5000}, PROXY, proxies)
    assert len(proxies._clients) <= 4096
