"""The edge on a real uvicorn: behaviour that only appears on a socket."""

import asyncio

import orjson
import schemathesis
from schemathesis.core.result import Ok

from anabranch.edge.app import Gateway, build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.engine.outcome import Result
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.edge_plans import body, document, endpoint, parameter, read_integer, result


class Engine:
    """Waits until it is released. `begun`, `ended`: set by the first run."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()
        self.how = ""

    async def __call__(self, *_: object) -> Result:
        self.begun.set()
        try:
            await self.let_go.wait()
            self.how = "done"
        except asyncio.CancelledError:
            self.how = "cancelled"
            raise
        finally:
            self.ended.set()
        return result(body=b'{"flight":1}')


def gateway(engine: Engine) -> Gateway:
    plane = DataPlane(lambda _: engine)
    identity = parameter("id", "path", slot=0, read=read_integer, schema={"type": "integer", "minimum": 0})
    plane.load(document(endpoint("/flights/{id}", parameters=(identity,)), endpoint("/flights", "POST", body=body())))
    return build_app(plane=plane)


async def request(port: int, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(text)
    await writer.drain()
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


async def test_disconnect_cancels_only_the_clients_own_request() -> None:
    engine = Engine()
    async with serve(gateway(engine)) as port, asyncio.timeout(10):
        _, writer = await request(port, b"GET /flights/1 HTTP/1.1\r\nhost: x\r\n\r\n")
        await engine.begun.wait()
        writer.close()
        await engine.ended.wait()
        assert engine.how == "cancelled"
        engine.let_go.set()
        reader, other = await request(port, b"GET /flights/2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        other.close()


async def test_connection_is_kept_alive_and_responses_are_in_order() -> None:
    engine = Engine()
    engine.let_go.set()
    async with serve(gateway(engine)) as port, asyncio.timeout(10):
        reader, writer = await request(port, b"GET /flights/1 HTTP/1.1\r\nhost: x\r\n\r\nGET /flights/x HTTP/1.1\r\nhost: x\r\n\r\n")
        status, headers, content = await answer(reader)
        assert (status, headers["gateway-complete"], content) == (200, "?1", b'{"flight":1}')
        status, headers, content = await answer(reader)
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert orjson.loads(content)["errors"][0]["name"] == "id"
        writer.close()


async def test_body_over_the_limit_is_rejected_before_it_is_sent() -> None:
    engine = Engine()
    async with serve(gateway(engine)) as port, asyncio.timeout(10):
        reader, writer = await request(
            port,
            b"POST /flights HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n",
        )
        assert (await answer(reader))[0] == 413
        writer.close()


async def test_disconnect_during_the_request_body_runs_nothing() -> None:
    engine = Engine()
    async with serve(gateway(engine)) as port, asyncio.timeout(10):
        _, writer = await request(port, b'POST /flights HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"a"')
        writer.close()
        await writer.wait_closed()
        engine.let_go.set()
        reader, other = await request(port, b"GET /problems HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        assert not engine.begun.is_set()
        other.close()


async def test_head_and_problem_heads_have_no_body_on_the_wire() -> None:
    engine = Engine()
    engine.let_go.set()
    async with serve(gateway(engine)) as port, asyncio.timeout(10):
        reader, writer = await request(port, b"HEAD /flights/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        raw = await reader.read()
        assert raw.startswith(b"HTTP/1.1 200")
        assert b"content-length: 12\r\n" in raw
        assert raw.endswith(b"\r\n\r\n")
        writer.close()


def test_description_can_be_loaded_by_schemathesis() -> None:
    app = gateway(Engine())
    loaded = schemathesis.openapi.from_dict(app.openapi())
    operations = [found.ok() for found in loaded.get_all_operations() if isinstance(found, Ok)]
    assert {(operation.method, operation.path) for operation in operations} == {("get", "/flights/{id}"), ("post", "/flights")}
