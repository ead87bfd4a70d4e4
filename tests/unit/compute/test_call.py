"""One call of a hook in a worker: text in, reply out, whatever the hook does."""

from typing import Any

import orjson
import pytest

from anabranch.compute.call import JobReply, ReplyKind, call_hook, resolve


def called(hook: str, **arguments: Any) -> JobReply:
    return call_hook(f"tests.support.hooks:{hook}", orjson.dumps(arguments))


@pytest.mark.parametrize(
    ("hook", "arguments", "value"),
    [
        ("add", {"a": 1}, b"3"),
        ("add", {"a": 1, "b": 5}, b"6"),
        ("echo", {"value": {"x": [1, None]}}, b'{"x":[1,null]}'),
        ("mean", {"flights": [{"id": 1, "delay": 2}, {"id": 2, "delay": 4}]}, b"3.0"),
        ("worst", {"flights": [{"id": 1}]}, b'{"id":1,"delay":0.0}'),
        ("worst", {"flights": []}, b"null"),
        ("anything", {"x": 1, "y": "z"}, b'{"x":1,"y":"z"}'),
        ("unchecked", {"a": 1}, b"[1,null]"),
        ("text_of_json", {"text": ' {"a": 1.50} '}, b'{"a": 1.50}'),
        ("shout", {"text": ""}, b"null"),
        ("Statistics.total", {"values": [1, 2]}, b"3"),
    ],
)
def test_a_value_is_json_text(hook: str, arguments: dict[str, Any], value: bytes) -> None:
    assert called(hook, **arguments) == (ReplyKind.VALUE, value)


@pytest.mark.parametrize(
    ("hook", "arguments", "kind", "text"),
    [
        ("add", {"a": "one"}, ReplyKind.INVALID_INPUT, b"a: Input should be a valid integer"),
        ("mean", {"flights": [{}]}, ReplyKind.INVALID_INPUT, b"flights.0.id: Field required"),
        ("lies", {}, ReplyKind.INVALID_RESULT, b"the value: Input should be a valid integer"),
        ("unserializable", {}, ReplyKind.INVALID_RESULT, b"object"),
        ("text_of_json", {"text": "{"}, ReplyKind.INVALID_RESULT, b"DecodeError"),
        ("raises", {"message": "so"}, ReplyKind.FAILED, b"ValueError: so"),
        ("polite_exit", {}, ReplyKind.FAILED, b"SystemExit: 3"),
        ("nowhere", {}, ReplyKind.FAILED, b"AttributeError"),
    ],
)
def test_a_failure_is_a_reply_with_a_message_for_the_operator(hook: str, arguments: dict[str, Any], kind: ReplyKind, text: bytes) -> None:
    reply = called(hook, **arguments)
    assert reply.kind is kind
    assert text in reply.payload


def test_invalid_values_are_not_repeated_in_the_log() -> None:
    assert b"a-secret" not in called("add", a="a-secret").payload


def test_many_faults_are_counted() -> None:
    assert b"and 15 more" in called("mean", flights=[{}] * 25).payload


def test_the_traceback_starts_at_the_hook() -> None:
    stack = called("raises", message="so").payload.decode()
    assert "hooks.py" in stack
    assert "call.py" not in stack


def test_a_hook_is_resolved_once() -> None:
    assert resolve("tests.support.hooks:add") is resolve("tests.support.hooks:add")


def test_bytes_that_are_not_utf_8_are_rejected_as_a_result() -> None:
    hook = resolve("tests.support.hooks:echo")
    with pytest.raises(ValueError, match="utf-8"):
        hook.dump(b'"\xff"')
