"""Programs that use the real groq and openai SDKs: only the base URL and the key are others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, get_type_hints

import groq
import openai
import pytest
from groq.types.chat import completion_create_params
from scripted_engine import CRASH, chunk

from qat.serve.gateway.request import ChatRequest

MESSAGES: Any = [{"role": "user", "content": "one two three"}]
SDKS = {
    "groq": (groq, groq.Groq, groq.AsyncGroq, ""),
    "openai": (openai, openai.OpenAI, openai.AsyncOpenAI, "/openai/v1"),
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "default": None}}}


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> Any:
    return SDKS[request.param]


@pytest.fixture
def client(sdk, gateway) -> Callable[..., Any]:
    """Makes a client of a gateway with the key, and options."""

    def make(asynchronous: bool = False, api_key: str = "right", **options: Any) -> Any:
        address = gateway(key="right", **options)
        return sdk[1 + asynchronous](base_url=address + sdk[3], api_key=api_key, max_retries=0)

    return make


def text(chunks: Any) -> str:
    return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)


def test_whole(client) -> None:
    answer = client().chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_completion_tokens=9)
    assert answer.choices[0].message.content == "one two three" and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 10 and answer.usage.total_time > 0 and answer.x_groq


def test_stream(client) -> None:
    chunks = list(client().chat.completions.create(model="tiny", messages=MESSAGES, stream=True))
    assert text(chunks) == "one two three" and chunks[-1].choices[0].finish_reason == "stop"


def test_asynchronous(client) -> None:
    async def both() -> tuple[Any, list[Any]]:
        async with client(asynchronous=True) as asker:
            create = asker.chat.completions.create
            whole = await create(model="tiny", messages=MESSAGES)
            return whole, [one async for one in await create(model="tiny", messages=MESSAGES, stream=True)]

    whole, chunks = asyncio.run(both())
    assert whole.choices[0].message.content == text(chunks) == "one two three"


def test_groqs_own_fields_have_the_sdks_types(gateway) -> None:
    asker = groq.Groq(base_url=gateway(), api_key="any", max_retries=0)
    answer = asker.chat.completions.create(model="tiny", messages=MESSAGES)
    assert isinstance(answer.x_groq, groq.types.chat.chat_completion.XGroq)
    chunks = list(asker.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))
    assert chunks[0].x_groq.id == chunks[-1].x_groq.id and chunks[0].x_groq.usage is None
    usage = chunks[-1].x_groq.usage
    assert isinstance(usage, groq.types.CompletionUsage) and usage.completion_tokens == 3 and usage.prompt_time > 0


def test_models(client) -> None:
    asker = client()
    assert [model.id for model in asker.models.list().data] == ["tiny", "llama-3.1-8b-instant"]
    assert asker.models.retrieve("tiny").owned_by == "qat"


def test_errors_are_the_sdks_own(client, sdk, engine) -> None:
    module, asker = sdk[0], client(tokens_per_minute=1)
    with pytest.raises(module.NotFoundError) as caught:
        asker.chat.completions.create(model="other", messages=MESSAGES)
    assert caught.value.response.json()["error"]["code"] == "model_not_found"
    with pytest.raises(module.BadRequestError, match="logprobs"):
        asker.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True)
    with pytest.raises(module.AuthenticationError, match="Invalid API Key"):
        asker.with_options(api_key="wrong").models.list()
    asker.chat.completions.create(model="tiny", messages=MESSAGES)
    with pytest.raises(module.RateLimitError) as limited:
        asker.chat.completions.create(model="tiny", messages=MESSAGES)
    assert int(limited.value.response.headers["retry-after"]) > 60


def test_half_an_answer_is_not_taken_for_a_whole_one(client, sdk, engine) -> None:
    engine.script = [chunk({"content": "a"}), CRASH]
    stream = client().chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    assert next(stream).choices[0].delta.content == "a"
    assert "broke" in (next(stream).x_groq if sdk[0] is openai else next(stream).x_groq.model_dump())["error"]
    with pytest.raises(sdk[0].APIError, match="connection to the engine broke"):
        next(stream)


def test_tools_pass_both_ways(client, engine) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    pieces = [{"arguments": "{"}, {"arguments": "}"}]
    begin = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    engine.script = [
        chunk({"role": "assistant", "content": "", "reasoning_content": "hm"}),
        chunk({"tool_calls": [begin]}),
        *(chunk({"tool_calls": [{"index": 0, "function": piece}]}) for piece in pieces),
        chunk({}, "tool_calls"),
    ]
    asker = client()
    first = asker.chat.completions.create(model="tiny", messages=MESSAGES, tools=[TOOL], tool_choice="required")
    said = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and said.content is None
    assert said.tool_calls[0].function.name == "weather" and said.reasoning == "hm"
    answered = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    asker.chat.completions.create(model="tiny", messages=[*MESSAGES, said.model_dump(), answered], tools=[TOOL])
    assert engine.received[0]["tools"] == [TOOL]
    assert [one["role"] for one in engine.received[1]["messages"]] == ["user", "assistant", "tool"]
    assert engine.received[1]["messages"][1]["tool_calls"] == [call]


def test_the_request_has_every_field_of_the_sdks() -> None:
    declared = get_type_hints(completion_create_params.CompletionCreateParams).keys()
    assert ChatRequest.model_fields.keys() - declared == {"stream_options"}
    assert not declared - ChatRequest.model_fields.keys()
