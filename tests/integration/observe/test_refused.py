"""Malformed requests are answered, counted and logged by a running gateway, on both of its ports."""

import asyncio
import json
import re
from pathlib import Path

import httpx

from anabranch.testing.serving import LOOPBACK
from tests.support.command import running_command
from tests.support.head_server import problem_of, rest

DOCUMENT = "version: 1\nendpoints: [{path: /nothing, steps: {s: {upstream: u, path: /}}}]\nupstreams: {u: {url: 'http://127.0.0.1:9'}}\n"


async def test_garbage_is_answered_counted_and_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT, "utf-8")
    async with running_command(path, ANABRANCH_ADMIN_PORT="0", ANABRANCH_LOG_FORMAT="json") as command:
        admin = int(next(found[1] for line in command.said if (found := re.search(r"the admin server listens on \S+ port (\d+)", line))))
        for port in (command.port, command.port, admin):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(b"secret-garbage\r\n\r\n")
            status, headers, problem = problem_of(await rest(reader))
            writer.close()
            assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
            assert problem["type"] == "/problems/malformed_request"
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"http://{LOOPBACK}:{admin}/metrics")).text
            page = await client.get(f"http://{LOOPBACK}:{command.port}/problems/malformed_request")
        assert 'anabranch_refused_connections_total{reason="malformed_request"} 3.0' in metrics
        assert page.status_code == 200
        command.process.terminate()
        assert await command.ended() == 0
    events = [json.loads(line) for line in command.said if "refused" in line]
    assert [(event["level"], event["event"], event["code"], event["left_out"]) for event in events] == [
        ("warning", "refused", "malformed_request", 0)
    ]
    assert events[0]["client"].startswith(f"{LOOPBACK}:")
    assert "secret-garbage" not in "\n".join(command.said)
