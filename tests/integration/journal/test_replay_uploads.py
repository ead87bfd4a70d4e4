"""What the journal keeps of forms and uploads, and how their requests are replayed."""

import asyncio
import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.journal.reader import records
from anabranch.journal.record import encode
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
upstreams: {{a: {{url: "{url}"}}, stock: {{url: "{url}", transport: httpx}}}}
defaults: {{timeout: 20s}}
journal: {{durability: required{redact}}}
endpoints:
  - path: /documents
    name: documents
    method: PUT
    body: {{type: multipart, max_size: 4MiB, schema: {{properties: {{file: {{type: string, format: binary}}, n: {{type: integer}}}}}}}}
    steps:
      stored: {{upstream: a, path: /store, encode: multipart, body: {{file: "{{body.file}}", n: "{{body.n}}"}}}}
      kept: {{upstream: stock, path: /store, encode: multipart, body: "{{body}}"}}
    journal: {{bodies: steps}}
  - path: /named
    name: named
    method: PUT
    body: {{type: multipart}}
    steps: {{one: {{upstream: a, path: /store, body: "{{body.file.filename}}"}}}}
    journal: {{bodies: response}}
  - path: /forms
    name: forms
    method: PUT
    body: {{type: form, schema: {{properties: {{n: {{type: integer}}}}}}}}
    steps:
      form: {{upstream: a, path: /form, encode: form, body: {{n: "{{body.n}}", secret: "{{body.secret}}"}}}}
      xml: {{upstream: a, path: /xml, encode: xml, body: {{n: "{{body.n}}"}}}}
      text: {{upstream: a, path: /text, encode: text, body: "{{body.n}}"}}
    journal: {{bodies: steps}}
  - path: /texts
    name: texts
    method: PUT
    body: {{type: text}}
    steps: {{one: {{upstream: a, path: /text, encode: text, body: "{{body}}"}}}}
    journal: {{bodies: steps}}
"""
SCRIPT: dict[str, Any] = {path: {"json": {"path": path}} for path in ("/store", "/form", "/xml", "/text")}
SMALL = b"\x89PNG \xff"
LARGE = b"\xffsecret-bytes" * 200_000


async def recorded(folder: Path, redact: str = "") -> str:
    async with ScriptedUpstream(SCRIPT) as upstream:
        document = DOCUMENT.format(url=upstream.url, redact=redact)
        async with running_gateway(document, folder, journal_path=folder / "journal") as gateway, gateway.client() as client:
            for content in (SMALL, LARGE):
                answer = await client.put("/documents", files={"file": ("a.png", content, "image/png")}, data={"n": "7"})
                assert (answer.status_code, answer.headers["gateway-complete"]) == (200, "?1"), answer.text
            assert (await client.put("/named", files={"file": ("a.png", SMALL)})).status_code == 200
            await client.put("/forms", data={"n": "7", "secret": "hunter2"})
            await client.put("/texts", content="Zoë", headers={"content-type": "text/plain"})
            assert (await client.put("/documents", files={"file": ("a.png", b"x")}, data={"n": "no number"})).status_code == 400
            assert (
                await client.put("/documents", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})
            ).status_code == 400
    return document


def replay(folder: Path, document: str, *options: str) -> dict[str, Any]:
    path = folder / "new.yaml"
    path.write_text(document, "utf-8")
    command = ["replay", "--config", str(path), "--journal", str(folder / "journal"), "--format", "json", *options]
    report: dict[str, Any] = json.loads(CliRunner().invoke(cli, command).stdout)
    return report


@pytest.mark.parametrize("redact", ["", ", redact: {paths: [secret]}"])
async def test_uploads_are_recorded_by_size_and_digest_and_replayed_without_their_bytes(tmp_path: Path, redact: str) -> None:
    document = await recorded(tmp_path, redact)
    everything = b"".join(map(encode, records(tmp_path / "journal")))
    assert b"secret-bytes" not in everything
    assert b64encode(LARGE[:30]) not in everything
    assert (b"hunter2" in everything) is not bool(redact)
    kept = [record for record in records(tmp_path / "journal") if record.endpoint == "documents" and record.status == 200]
    for record, content in zip(kept, (SMALL, LARGE), strict=True):
        assert record.request.body is not None
        assert json.loads(record.request.body.to_bytes())["file"] == {
            "filename": "a.png", "content_type": "image/png", "size": len(content), "sha256": sha256(content).hexdigest(),
        }  # fmt: skip
        for step in record.steps:
            assert step.sent is not None
            assert isinstance(step.sent.size, int)
            assert len(content) < step.sent.size < len(content) + 1000
            assert not isinstance(step.sent.sha256, str)

    report = await asyncio.to_thread(replay, tmp_path, document)
    assert report["same"], json.dumps(report, indent=1)
    endpoints = report["endpoints"]
    assert {name: of["replayed"] for name, of in endpoints.items()} == {"documents": 3, "named": 0, "forms": 0 if redact else 1, "texts": 1}
    # A form cannot be redacted: only its digest was kept, which does not fit the redacted value.
    assert [reason[:38] for reason in endpoints["forms"]["skipped"]] == (["a call is made with a redacted value ("] if redact else [])
    assert endpoints["documents"]["skipped"] == {"the request body was rejected, and is not in the record": 1}
    assert list(endpoints["named"]["skipped"]) == ["the request body was not kept (`bodies: steps` keeps it)"]


async def test_a_live_replay_says_that_it_does_not_have_the_files(tmp_path: Path) -> None:
    async with ScriptedUpstream(SCRIPT) as upstream:
        await recorded(tmp_path)
        document = DOCUMENT.format(url=upstream.url, redact="")
        report = await asyncio.to_thread(replay, tmp_path, document, "--live")
        skipped = report["endpoints"]["documents"]["skipped"]
        assert skipped["the request has uploaded files, of which the journal keeps only size and digest"] == 3
        assert [hit.path for hit in upstream.hits if hit.path == "/store"] == []
        assert report["endpoints"]["forms"]["replayed"] == 1


async def test_a_gateway_without_services_answers_an_upload_from_the_journal(tmp_path: Path) -> None:
    document = await recorded(tmp_path)
    (tmp_path / "again").mkdir()
    async with running_gateway(document, tmp_path / "again", from_journal=tmp_path / "journal") as gateway, gateway.client() as client:
        for content in (SMALL, LARGE):
            answer = await client.put("/documents", files={"file": ("b.png", content)}, data={"n": "7"})
            assert answer.json() == {"stored": {"path": "/store"}, "kept": {"path": "/store"}}
