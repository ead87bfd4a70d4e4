"""httpx.AsyncClient on our own connections."""

import httpx
import pytest

from anabranch.upstream.bridge import Bridge
from tests.support.rig import Rig


async def test_client_works_on_our_connections(rig: Rig) -> None:
    upstream = await rig.serve({"*": {"echo": True, "encoding": "gzip"}})
    caller = rig.caller(upstream.url)
    async with httpx.AsyncClient(transport=Bridge(caller.transport), base_url=upstream.url) as client:
        for _ in range(2):
            response = await client.post("/a/b", params={"q": "ä b"}, json={"k": 1}, headers={"x-a": "1"})
            seen = response.json()
            assert (seen["method"], seen["target"], seen["body"], seen["headers"]["x-a"]) == ("POST", "/a/b?q=%C3%A4+b", {"k": 1}, "1")
            assert "content-encoding" not in response.headers
        assert (await client.get("/")).status_code == 200
    assert upstream.accepted == 1
    assert [hit.header("content-length") for hit in upstream.hits][2] is None


async def test_failures_are_httpx_exceptions(rig: Rig) -> None:
    spec = {
        "/hang": {"hang": True},
        "/cut": {"reset": "answer"},
        "/raw": {"raw": "nonsense\r\n\r\n"},
        "/big": {"size": 101},
        "/ok": {"body": ""},
    }
    upstream = await rig.serve(spec)
    caller = rig.caller(upstream.url, max_response=100)
    async with httpx.AsyncClient(transport=Bridge(caller.transport), base_url=upstream.url, timeout=30.0) as client:
        assert (await client.get("/ok")).status_code == 200  # so that the connection exists and only the answer is pending
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/hang", timeout=0.5)
        with pytest.raises(httpx.ReadError):
            await client.get("/cut")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/raw")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/big")
        await upstream.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get("/")
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://127.0.0.1/")
