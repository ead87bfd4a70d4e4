"""What services are told of the client: `X-Forwarded-For`, `-Proto`, `-Host`, `-Prefix`, and `Forwarded`.

What such fields of a request say is believed only if the connection comes from a trusted proxy: everybody can send them. Pure: no sockets.

**Source:** RFC 7239; for the other fields no standard exists, and this is what nginx, Envoy and HAProxy send: addresses without brackets and ports.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

import msgspec

from anabranch.core.certificate import ClientCertificate

Forwarded = Literal["append", "replace", "off"]
Fields = tuple[tuple[bytes, bytes], ...]
_Inputs = tuple[str | bytes | None, ...]

FORWARDING: Final = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"forwarded")
CHAINS: Final = frozenset((b"x-forwarded-for", b"forwarded"))
"""Those that tell addresses. Clients at different addresses may share what is else the same."""
UNIX: Final = "unix"
"""In a list of trusted proxies: whoever connects through a Unix socket."""

_MOST_BYTES: Final = 2048
"""Of a chain of addresses. The farthest hops are left out first: only the nearest ones have a proxy that vouches for them."""
_MOST_ELEMENT_BYTES: Final = 1024
_MOST_HOST_BYTES: Final = 259
_MOST_PREFIX_BYTES: Final = 512
_MOST_PEERS: Final = 4096
_MOST_HOP_BYTES: Final = 64
_MOST_RENDERED: Final = 1024
_MOST_KEPT_BYTES: Final = 512

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HOST: Final = b"-._~!$&'()*+;=%:[]0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX: Final = frozenset(b"/-._~!$&'()*+,;=:@%0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_PROTO: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,15}")
# RFC 7239 section 4, and the quoted strings of RFC 9110 section 5.6.4.
_VALUE: Final = rb"""(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*")"""
_ELEMENT: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+=" + _VALUE + rb"(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+=" + _VALUE + rb")*;?"
)
_PAIR: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(" + _VALUE + rb")")
_SEPARATOR: Final = re.compile(rb"[ \t]*(?:,[ \t]*)+")


def public_prefix(forwarded: bytes | None, root_path: str) -> str:
    """The path below which the client sees the gateway: the prefix that a proxy has stripped, as it says in `X-Forwarded-Prefix`, and where the
    application is mounted.

    Only a plain path counts: anything else, such as `//host`, would turn a link into one to somewhere else.
    """
    if forwarded is None or len(forwarded) > _MOST_PREFIX_BYTES or not _PREFIX.issuperset(forwarded):
        return root_path
    prefix = forwarded.rstrip(b"/")
    return prefix.decode("ascii") + root_path if prefix.startswith(b"/") and not prefix.startswith(b"//") else root_path


def is_host(value: bytes) -> bool:
    """Whether `value` can be sent as a host with or without a port. Rejects what could not stand in a header field."""
    return 0 < len(value) <= _MOST_HOST_BYTES and not value.translate(None, _HOST)


class Peer(msgspec.Struct, frozen=True):
    """The other end of a client's connection. `address`: without brackets; b"" if it has none. `node`: the same as in `Forwarded`."""

    address: bytes
    node: bytes
    is_trusted: bool


class Client(msgspec.Struct, frozen=True):
    """Who has sent a request, as far as its address tells. `ip`: None: unknown. `text`: the address; "" if unknown. `network`: the same for all addresses that one
    client is likely to have: of IPv6 the /64, which is what providers give to one subscriber (RFC 6177)."""

    ip: IPv4Address | IPv6Address | None
    text: str
    network: bytes


def _client(ip: IPv4Address | IPv6Address | None) -> Client:
    if ip is None:
        return Client(None, "", b"")
    return Client(ip, str(ip), ip.packed if ip.version == 4 else ip.packed[:8])


class TrustedProxies:
    """The proxies in front of the gateway: addresses, networks, and `unix` for all that come through a Unix socket.

    Raises ValueError with a sentence for the operator.
    """

    __slots__ = ("_clients", "_networks", "_peers", "_trusts_unix", "rendered")

    def __init__(self, names: Iterable[str] = ()) -> None:
        names = tuple(names)
        self._trusts_unix = UNIX in names
        self._networks = tuple(_network(name) for name in names if name != UNIX)
        self._peers: dict[str, Peer] = {}
        self._clients: dict[tuple[str | None, bytes | None, bytes | None], Client] = {}
        self.rendered: dict[_Inputs, Fields] = {}
        """What was rendered lately, by all that it depends on: most requests come from a client that has just sent another one."""

    def peer(self, host: str | None) -> Peer:
        """The peer with this address; None, or what is no address, for one without: a Unix socket."""
        if host is None:
            host = ""
        found = self._peers.get(host)
        if found is None:
            if len(self._peers) >= _MOST_PEERS:
                self._peers.clear()
            found = self._peers[host] = self._look(host)
        return found

    def client(self, host: str | None, forwarded_for: bytes | None, forwarded: bytes | None) -> Client:
        """The client behind a peer. `host`: as of `peer`. `forwarded_for`, `forwarded`: the fields of the request.

        Behind a trusted proxy it is the last hop that is none: each hop is vouched for by the one to its right. What is no address ends the walk, and the proxy that
        says so is the client then. Where a request has both fields, `X-Forwarded-For` counts.
        """
        key = (host, forwarded_for, forwarded) if self.peer(host).is_trusted else (host, None, None)
        found = self._clients.get(key)
        if found is None:
            if len(self._clients) >= _MOST_PEERS:
                self._clients.clear()
            found = self._behind(*key)
            if len(key[1] or b"") + len(key[2] or b"") <= _MOST_KEPT_BYTES:
                self._clients[key] = found
        return found

    def _behind(self, host: str | None, forwarded_for: bytes | None, forwarded: bytes | None) -> Client:
        ip = None if host is None else _address(host)
        if forwarded_for is not None:
            for hop in _from_the_right(forwarded_for):
                address = _hop_address(hop)
                if address is None:
                    break
                ip = address
                if not self._is_proxy(address):
                    break
        elif forwarded is not None:
            for element in reversed(_elements(forwarded)):
                address = _hop_address(dict(_pairs(element)).get(b"for", b""))
                if address is None:
                    break
                ip = address
                if not self._is_proxy(address):
                    break
        return _client(ip)

    def _is_proxy(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def _look(self, host: str) -> Peer:
        address = _address(host)
        if address is None:
            return Peer(b"", b"unknown", self._trusts_unix)
        text = str(address).encode("ascii")
        return Peer(text, _node(text), self._is_proxy(address))


def client_address(headers: dict[bytes, bytes], client: tuple[str, int] | None, proxies: TrustedProxies) -> Client:
    """Who has sent a request. `headers`: by lower-case name, repeated fields joined. `client`: address and port of the connection's other end; None for a Unix socket."""
    return proxies.client(None if client is None else client[0], headers.get(b"x-forwarded-for"), headers.get(b"forwarded"))


def _from_the_right(value: bytes) -> Iterator[bytes]:
    """The hops of X-Forwarded-For, the nearest first, without looking at those beyond the one that is needed."""
    rest, comma = value, b","
    while comma:
        rest, comma, hop = rest.rpartition(b",")
        yield hop.strip(b' \t"')


def _hop_address(hop: bytes) -> IPv4Address | IPv6Address | None:
    """The address of a hop, which may have a port, and brackets around IPv6; None for a name, `unknown`, and garbage."""
    if len(hop) > _MOST_HOP_BYTES:
        return None
    text = hop.decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return _address(text)


def _network(name: str) -> IPv4Network | IPv6Network:
    if name == "*":
        raise ValueError("`*` is not a network; to trust every peer, write 0.0.0.0/0,::/0")
    try:
        return ip_network(name)
    except ValueError:
        pass
    try:
        meant = ip_network(name, strict=False)
    except ValueError:
        raise ValueError(f"{name!r} is neither an address, a network such as 10.0.0.0/8, nor `unix`") from None
    raise ValueError(f"{name!r} has bits that its network does not have; write {meant}, or the address alone")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address of a peer: the zone means nothing elsewhere, and an IPv4 address stays one on a socket for both (RFC 4291 section 2.5.5.2)."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


class Arrival(msgspec.Struct):
    """How a request came to the gateway, of which its services are told. Renders each form of it once, when the first call needs it.

    `headers`: by lower-case name, repeated fields joined. `client`: address and port; None for a Unix socket. `root_path`: where the application
    is mounted. `certificate`: with which the client has opened its connection; None: with none.
    """

    headers: dict[bytes, bytes]
    client: tuple[str, int] | None
    scheme: str
    root_path: str
    proxies: TrustedProxies
    certificate: ClientCertificate | None = None
    _own: Fields | None = None
    _continued: Fields | None = None

    @property
    def sender(self) -> Client:
        """Who has sent the request."""
        return client_address(self.headers, self.client, self.proxies)

    def replaced(self) -> Fields:
        """What this gateway knows by itself, whatever the request says."""
        fields = self._own
        if fields is None:
            client, rendered = self.client, self.proxies.rendered
            name = None if client is None else client[0]
            key = (name, self.scheme, self.headers.get(b"host", b""), self.root_path)
            fields = rendered.get(key)
            if fields is None:
                fields = _keep(rendered, key, self._by_itself(self.proxies.peer(name)))
            self._own = fields
        return fields

    def appended(self) -> Fields:
        """The same, behind what a trusted proxy says. Without one, what the request says is left out."""
        fields = self._continued
        if fields is None:
            client = self.client
            name = None if client is None else client[0]
            peer = self.proxies.peer(name)
            if peer.is_trusted:
                get, rendered = self.headers.get, self.proxies.rendered
                key = (name, self.scheme, get(b"host", b""), self.root_path, *map(get, FORWARDING))
                fields = rendered.get(key)
                if fields is None:
                    fields = _keep(rendered, key, self._behind(peer))
            else:
                fields = self.replaced()
            self._continued = fields
        return fields

    def _by_itself(self, peer: Peer) -> Fields:
        host = self.headers.get(b"host", b"")
        scheme, host = self.scheme.encode("ascii", "ignore"), host if is_host(host) else b""
        return _fields(peer.address, scheme, host, self.root_path, _element(peer.node, host, scheme))

    def reached(self) -> Fields:
        """By which host, scheme and prefix the client reaches the service, and no address: the answer may differ by these, whoever asks."""
        return tuple(field for field in self.appended() if field[0] not in CHAINS)

    def _behind(self, peer: Peer) -> Fields:
        """What a trusted peer says, and the peer itself. What it says in only one of the two forms is said in both (RFC 7239 section 7.4)."""
        get = self.headers.get
        own = self.replaced()
        hops = _hops(get(b"x-forwarded-for", b""))
        proto = _proto(get(b"x-forwarded-proto", b""))
        host = _hosts(get(b"x-forwarded-host", b""))
        standard = get(b"forwarded")
        elements = [] if standard is None else _elements(standard)
        if elements:
            pairs = [dict(_pairs(element)) for element in elements]
            hops = hops or [_bare(of.get(b"for", b"unknown")) for of in pairs]
            proto = proto or _proto(pairs[0].get(b"proto", b""))
            host = host or _hosts(pairs[0].get(b"host", b""))
        elif hops:
            elements = [b"for=" + _node(hop) for hop in hops]
            elements[0] = _element(elements[0][4:], host.partition(b",")[0], proto.partition(b",")[0])
        if peer.address:
            hops.append(peer.address)
        return _fields(
            _joined(hops),
            proto or _value_of(own, b"x-forwarded-proto"),
            host or _value_of(own, b"x-forwarded-host"),
            public_prefix(get(b"x-forwarded-prefix"), self.root_path),
            _joined([*elements, own[-1][1]]),
        )


def _keep(rendered: dict[_Inputs, Fields], inputs: _Inputs, fields: Fields) -> Fields:
    """Keep what was rendered, unless it came from unusually long fields: clients choose them."""
    if len(rendered) >= _MOST_RENDERED:
        rendered.clear()
    if sum(len(part) for part in inputs if part is not None) <= _MOST_KEPT_BYTES:
        rendered[inputs] = fields
    return fields


def carrier_of(forwarded: Forwarded) -> Callable[[Fields, Arrival | None], Fields]:
    """A function that adds what a service is told of the client to the fields that a call carries anyway. The arrival is None for a request that
    no client sent: then there is nothing to tell."""
    if forwarded == "off":
        return lambda always, _arrival: always
    if forwarded == "replace":
        return lambda always, arrival: always if arrival is None else always + arrival.replaced()
    return lambda always, arrival: always if arrival is None else always + arrival.appended()


def _fields(hops: bytes, proto: bytes, host: bytes, prefix: str, forwarded: bytes) -> Fields:
    fields = [(b"x-forwarded-for", hops)] if hops else []
    if proto:
        fields.append((b"x-forwarded-proto", proto))
    if host:
        fields.append((b"x-forwarded-host", host))
    if prefix and prefix.isascii() and prefix.isprintable():
        fields.append((b"x-forwarded-prefix", prefix.encode("ascii")))
    fields.append((b"forwarded", forwarded))
    return tuple(fields)


def _element(node: bytes, host: bytes, proto: bytes) -> bytes:
    """One hop in `Forwarded`. `host`, `proto`: b"" if unknown."""
    parts = [b"for=", node]
    if host:
        # RFC 7239 section 4: a value with a colon or a bracket is quoted. A host has no character that needs an escape.
        parts += (b';host="', host, b'"') if host.translate(None, _TOKEN) else (b";host=", host)
    if proto:
        parts += (b";proto=", proto)
    return b"".join(parts)


def _node(hop: bytes) -> bytes:
    """A hop of X-Forwarded-For as a node of `Forwarded`: IPv6 in brackets, and quotes around all that is no token (RFC 7239 section 6)."""
    if not hop.translate(None, _TOKEN):
        return hop if hop[:1].isdigit() or hop[:1] == b"_" or hop == b"unknown" else b"unknown"
    if hop.count(b":") > 1 and not hop.startswith(b"["):
        hop = b"[" + hop + b"]"
    return b'"' + hop + b'"' if not hop.translate(None, _HOST) else b"unknown"


def _bare(node: bytes) -> bytes:
    """A node of `Forwarded` as a hop of X-Forwarded-For: without brackets and port."""
    hop = node[1:].partition(b"]")[0] if node.startswith(b"[") else node.partition(b":")[0]
    return hop if is_host(hop) else b"unknown"


def _hops(value: bytes) -> list[bytes]:
    """The hops of X-Forwarded-For; none when it has what cannot be an address or a name for one."""
    hops = [hop for part in value.split(b",") if (hop := part.strip(b' \t"'))]
    return hops if all(map(is_host, hops)) else []


def _elements(value: bytes) -> list[bytes]:
    """The elements of `Forwarded`; none when it does not follow its grammar. What were appended to an open quote would be part of it."""
    elements: list[bytes] = []
    at, end = 0, len(value)
    while at < end:
        separator = _SEPARATOR.match(value, at)
        if separator is not None:
            at = separator.end()
            continue
        found = _ELEMENT.match(value, at)
        if found is None or len(found[0]) > _MOST_ELEMENT_BYTES or not (found.end() == end or _SEPARATOR.match(value, found.end())):
            return []
        elements.append(found[0])
        at = found.end()
    return elements


def _pairs(element: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The parameters of an element of `Forwarded`: names in lower case, values without quotes."""
    for name, value in _PAIR.findall(element):
        yield name.lower(), re.sub(rb"\\(.)", rb"\1", value[1:-1]) if value.startswith(b'"') else value


def _proto(value: bytes) -> bytes:
    """A scheme, or one for each of several proxies; b"" when it is something else."""
    if value in {b"https", b"http"}:
        return value
    return value if len(value) <= 64 and all(_PROTO.fullmatch(part.strip(b" ")) for part in value.split(b",")) else b""


def _hosts(value: bytes) -> bytes:
    """A host, or one for each of several proxies; b"" when it is something else."""
    return value if is_host(value) or (b"," in value and all(is_host(part.strip(b" ")) for part in value.split(b","))) else b""


def _value_of(fields: Fields, name: bytes) -> bytes:
    return next((value for key, value in fields if key == name), b"")


def _joined(parts: list[bytes]) -> bytes:
    """The parts with commas between; of too many the last ones."""
    joined = b", ".join(parts)
    if len(joined) <= _MOST_BYTES:
        return joined
    room = _MOST_BYTES
    kept = len(parts)
    while (room := room - len(parts[kept - 1]) - 2) >= 0:
        kept -= 1
    return b", ".join(parts[kept:])
