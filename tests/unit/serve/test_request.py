from __future__ import annotations

import json
from typing import Any

import pytest

from qat.serve.gateway.errors import ApiError
from qat.serve.gateway.request import parse

USER = {"role": "user", "content": "a"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER]} | fields).encode()


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:", "detail": "low"}}]},
        {"role": "assistant", "content": None, "refusal": None, "function_call": None, "tool_calls": None},
        {"role": "tool", "content": "a", "tool_call_id": "b"},
    ],
)
def test_messages(message) -> None:
    assert parse(body(messages=[message])).messages[0].role == message["role"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "'messages': .*at least 1"),
        ({"messages": "a"}, "'messages'"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "'messages.0'.*system"),
        ({"messages": [{"role": "user"}]}, "property 'messages.0.user.content' is missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "'messages.0.user.content"),
        ({"messages": [USER | {"colour": "red"}]}, "property 'messages.0.user.colour' is unsupported"),
        ({"model": 3}, "'model'"),
        ({"temperature": "0"}, "'temperature'"),
        ({"temperature": 2.1}, "'temperature'.*less than or equal to 2"),
        ({"temperature": True}, "'temperature'"),
        ({"top_p": -0.1}, "'top_p'"),
        ({"max_completion_tokens": 0}, "'max_completion_tokens'"),
        ({"max_completion_tokens": 1.5}, "'max_completion_tokens'"),
        ({"stop": ["a"] * 5}, "'stop"),
        ({"stream": "yes"}, "'stream'"),
        ({"seed": 1.5}, "'seed'"),
        ({"response_format": {"type": "xml"}}, "'response_format'"),
        ({"tools": [{"type": "browser_search"}]}, "'tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "'tools.0.function.name'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 129}, "'tools'.*128"),
        ({"service_tier": "gold"}, "'service_tier'"),
        ({"reasoning_effort": "huge"}, "'reasoning_effort'"),
    ],
)
def test_wrong_types_are_named_by_place(fields, words) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        parse(body(**fields))
    assert caught.value.status == 400 and caught.value.kind == "invalid_request_error"


def test_the_value_is_not_repeated() -> None:
    with pytest.raises(ApiError) as caught:
        parse(body(user=["my secret"]))
    assert "secret" not in caught.value.message


def test_many_errors_are_not_all_told() -> None:
    with pytest.raises(ApiError, match="and 7 more$"):
        parse(body(messages=[{"role": "user"}] * 10))
