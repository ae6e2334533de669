from __future__ import annotations

import json
from typing import Any

import pytest

from qat.serve.gateway.event import BadAnswer
from qat.serve.gateway.gather import GatheredAnswer
from qat.serve.gateway.request import parse
from qat.serve.gateway.usage import Usage

REQUEST = parse(b'{"model": "tiny", "seed": 3, "messages": [{"role": "user", "content": "a"}]}')


def answer(*deltas: dict[str, Any], finish: str | None = "stop") -> GatheredAnswer:
    made = GatheredAnswer(REQUEST, Usage(clock=lambda: 1.0), "req_1")
    for delta in deltas:
        made.add(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode())
    made.add(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}).encode())
    made.add(b'{"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 9}}')
    made.add(b"[DONE]")
    return made


def message(*deltas: dict[str, Any]) -> dict[str, Any]:
    return answer(*deltas).whole()["choices"][0]["message"]


def test_texts_are_joined() -> None:
    begin = {"role": "assistant", "reasoning_content": "h"}
    got = message(begin, {"reasoning": "m"}, {"content": "a "}, {"content": "b"})
    assert got == {"role": "assistant", "content": "a b", "reasoning": "hm"}
    assert message() == {"role": "assistant", "content": ""}


def test_calls_are_put_together_by_their_index() -> None:
    def piece(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, **more, "function": {"arguments": arguments}}]}

    begin = {"index": 0, "id": "one", "type": "function", "function": {"name": "f"}}
    whole = {"index": 1, "id": "two", "function": {"name": "g", "arguments": "{}"}}
    got = message({"tool_calls": [begin]}, piece(0, '{"a":'), {"tool_calls": [whole]}, piece(0, " 1}", id=None))
    assert got == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "id": "one", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"type": "function", "id": "two", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_the_reason_and_the_usage_are_the_engines() -> None:
    got = answer({"content": "a"}, finish="length").whole()
    assert got["choices"][0]["finish_reason"] == "length"
    assert (got["usage"]["prompt_tokens"], got["usage"]["completion_tokens"]) == (2, 9)
    assert got["x_groq"] == {"id": "req_1", "seed": 3}


def test_one_that_never_ended_is_none() -> None:
    with pytest.raises(BadAnswer, match="before the answer"):
        answer({"content": "a"}, finish=None).whole()
