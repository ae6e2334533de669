from __future__ import annotations

import json
from typing import Any

import pytest

from qat.serve.gateway import groq
from qat.serve.gateway.errors import ApiError
from qat.serve.gateway.request import ChatRequest, parse

MESSAGES = [{"role": "user", "content": "a"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def request(**fields: Any) -> ChatRequest:
    made = parse(json.dumps({"model": "m", "messages": MESSAGES} | fields).encode())
    groq.refuse(made)
    return made


def sent(*refuses: str, **fields: Any) -> dict[str, Any]:
    body = groq.engine_request(request(**fields), "engine/m", frozenset(refuses))
    assert body.pop("messages")[0]["content"] == "a" and body.pop("model") == "engine/m" and body.pop("stream") is True
    return body


def test_groqs_defaults_are_sent_since_engines_have_others() -> None:
    usage = {"stream_options": {"include_usage": True}}
    assert sent() == {"temperature": 1, "top_p": 1} | usage
    assert sent(temperature=None, top_p=0.5) == {"temperature": 1, "top_p": 0.5} | usage


def test_temperature_0_stays_the_likeliest_token() -> None:
    assert sent(temperature=0)["temperature"] == 0


def test_the_older_name_of_the_token_limit_is_sent() -> None:
    assert sent(max_completion_tokens=5) == sent(max_tokens=5) == sent(max_tokens=5, max_completion_tokens=5)
    assert sent(max_tokens=5)["max_tokens"] == 5
    with pytest.raises(ApiError, match="differ"):
        sent(max_tokens=5, max_completion_tokens=6)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"user": "me"},
        {"service_tier": "auto"},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"reasoning_format": "raw"},
        {"disable_tool_validation": True},
        {"stream": False},
        {"stream": True, "stream_options": {"include_usage": False}},
        {"tools": []},
        {"tool_choice": "auto"},
        {"logprobs": None},
        {"functions": None},
    ],
)
def test_what_changes_no_answer_is_left_out(fields) -> None:
    assert sent(**fields) == sent()


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a", "b"]},
        {"seed": 3},
        {"frequency_penalty": -1.5},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [None, 1]}}}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [TOOL | {"function": {"name": "f", "parameters": {"properties": {"a": {"default": None}}}}}]},
    ],
)
def test_what_does_is_sent_as_it_is(fields) -> None:
    assert sent(**fields) == sent() | fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("tools", [TOOL]),
        ("seed", 1),
        ("stop", "a"),
        ("temperature", 0.5),
        ("presence_penalty", 1.0),
        ("reasoning_effort", "high"),
    ],
)
def test_what_the_engine_does_not_take_is_refused_by_name(name, value) -> None:
    with pytest.raises(ApiError, match=f"'{name}' is unsupported by the engine") as caught:
        sent(name, **{name: value})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "text"}),
        ("presence_penalty", 0),
        ("stream_options", {"include_usage": True}),
        ("parallel_tool_calls", True),
        ("temperature", 1),
        ("seed", None),
    ],
)
def test_what_asks_for_nothing_is_not(name, value) -> None:
    assert name not in sent(name, stream=True, **{name: value})


def test_no_tool_of_an_engine_that_has_none() -> None:
    assert sent("tools", "tool_choice", tools=[TOOL], tool_choice="none") == sent()
    assert sent(tools=[TOOL], tool_choice="none")["tools"] == [TOOL]
    with pytest.raises(ApiError, match="give 'tools'"):
        sent(tool_choice="required")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"documents": []}, "Compound"),
        ({"search_settings": {}}, "Compound"),
        ({"functions": []}, "use 'tools'"),
        ({"function_call": "auto"}, "use 'tool_choice'"),
        ({"reasoning_format": "raw", "include_reasoning": True}, "exclude each other"),
        ({"reasoning_format": "parsed"}, "only raw"),
        ({"logprobs": False}, "logprobs"),
        ({"n": 0}, "only 1"),
    ],
)
def test_refusals(fields, words) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        request(**fields)
    assert caught.value.status == 400


def test_a_message_in_parts_is_one_text() -> None:
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "a"}]
    assert sent(messages=[{"role": "user", "content": parts}]) == sent()
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(ApiError, match=r"'messages\.0\.content' has an image.*reads text only") as caught:
        sent(messages=[{"role": "user", "content": [*parts, image]}])
    assert caught.value.status == 400


def test_models() -> None:
    groq.check_model("b", ["a", "b"])
    with pytest.raises(ApiError, match="served here: a, b") as caught:
        groq.check_model("c", ["a", "b"])
    assert caught.value.status == 404 and caught.value.code == "model_not_found"
