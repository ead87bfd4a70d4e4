"""Chooses and builds the transport of an upstream from its settings."""

from importlib.util import find_spec

from anabranch.errors import MissingExtraError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.upstream.redirect import RedirectingStreams
from anabranch.upstream.seam import StreamTransport
from anabranch.upstream.tls import HTTP_1, TLSContexts
from anabranch.upstream.wire import WireTransport


def open_transport(upstream: UpstreamPlan, contexts: TLSContexts | None = None) -> StreamTransport:
    """The transport for `upstream`, ready for its first exchange; the caller closes it.

    `contexts`: shares TLS contexts between the upstreams of one document; None builds one for this upstream alone.
    Reads the TLS files. Raises ValueError with a sentence for the operator if one of them is unusable, and MissingExtraError if `http2` is
    enabled and its library is not installed.
    """
    contexts = contexts or TLSContexts()
    server_name = upstream.tls.server_name if upstream.tls is not None else None
    transport: StreamTransport
    if upstream.transport == "httpx":
        # Its libraries take a quarter of a second of CPU to import, and most documents do not use them.
        from anabranch.upstream.stock import HTTPXTransport, StockPool  # noqa: PLC0415

        if upstream.http2 and find_spec("h2") is None:
            raise MissingExtraError("http2", "http2")
        alpn = ("h2", *HTTP_1) if upstream.http2 else HTTP_1
        inner = StockPool(
            pool=upstream.pool,
            context=contexts.get(upstream.tls, alpn) if upstream.is_secure else None,
            http2=upstream.http2,
            proxy=upstream.proxy,
        )
        transport = HTTPXTransport(
            inner, connect_timeout_s=upstream.connect_timeout_s, max_response=upstream.max_response_bytes, server_name=server_name
        )
    else:
        transport = WireTransport(
            pool=upstream.pool,
            connect_timeout_s=upstream.connect_timeout_s,
            max_response=upstream.max_response_bytes,
            context=contexts.get(upstream.tls) if upstream.is_secure else None,
            server_name=server_name,
        )
    return RedirectingStreams(transport, limit=upstream.follow_redirects) if upstream.follow_redirects else transport
