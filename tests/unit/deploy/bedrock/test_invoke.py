from __future__ import annotations

import json
from typing import Any

import pytest
from aws_world import World
from fake_aws import Drop, FakeAws, Refuse

from qat.deploy.aws.errors import AwsError
from qat.deploy.bedrock.invoke import NOT_READY, smoke, text_of
from qat.errors import RunError

MODEL = "arn:aws:bedrock:us-east-1:123456789012:imported-model/abcdefghij12"
COLD = Refuse(NOT_READY, "not ready", 429)


def answer(parameters: dict[str, Any]) -> bytes:
    """As Bedrock answers to each format; the fake looks at the body as the host does."""
    asked = json.loads(parameters["body"])
    if "messages" in asked:
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": "chat"}}]}).encode()
    if "max_gen_len" in asked:
        return json.dumps({"generation": "own", "stop_reason": "length"}).encode()
    return json.dumps({"choices": [{"text": "open"}]}).encode()


def ask(world: World, fake: FakeAws, instruct: bool = True) -> dict[str, str]:
    return smoke(world.aws(**{"bedrock-runtime": fake.url}), MODEL, "Hello", instruct, ready_minutes=15)


def test_asks_in_every_format(world: World, fake: FakeAws) -> None:
    fake.script["InvokeModel"] = [answer]
    assert ask(world, fake) == {"BedrockCompletion": "own", "OpenAICompletion": "open", "OpenAIChatCompletion": "chat"}
    assert [json.loads(one["body"]) for one in fake.of("InvokeModel")] == [
        {"prompt": "Hello", "max_gen_len": 16, "temperature": 0},
        {"prompt": "Hello", "max_tokens": 16, "temperature": 0},
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16, "temperature": 0},
    ]
    assert {one["modelId"] for one in fake.of("InvokeModel")} == {MODEL}


def test_waits_minutes_for_a_cold_model(world: World, fake: FakeAws) -> None:
    fake.script["InvokeModel"] = [COLD] * 8 + [Refuse("ThrottlingException", status=429), Drop(), answer]
    assert len(ask(world, fake)) == 3
    assert world.ticks.slept == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    assert f"bedrock-runtime:InvokeModel: {NOT_READY}, trying again in 5 s" in world.said


def test_gives_up_on_a_model_that_stays_cold(world: World, fake: FakeAws) -> None:
    fake.script["InvokeModel"] = [COLD]
    with pytest.raises(RunError, match="is not ready after 15 min; push again, or set target.ready_minutes"):
        ask(world, fake)
    assert 840 < sum(world.ticks.slept) <= 900


def test_a_refusal_is_told(world: World, fake: FakeAws) -> None:
    fake.script["InvokeModel"] = [Refuse("AccessDeniedException", "no right", 403)]
    with pytest.raises(AwsError, match="AWS denied bedrock-runtime:InvokeModel"):
        ask(world, fake)
    assert len(fake.seen) == 1


def test_no_chat_without_a_template(world: World, fake: FakeAws) -> None:
    fake.script["InvokeModel"] = [answer]
    assert [*ask(world, fake, instruct=False)] == ["BedrockCompletion", "OpenAICompletion"]
    assert "OpenAIChatCompletion: not asked" in world.said


@pytest.mark.parametrize(
    "body", [b'{"generation": "a"}', b'{"choices": [{"text": "a"}]}', b'{"outputs": [{"text": "a"}]}']
)
def test_the_shapes_of_an_answer(body: bytes) -> None:
    assert text_of("BedrockCompletion", body) == "a"


@pytest.mark.parametrize("body", [b"no", b"{}", b"[]", b'{"choices": []}'])
def test_an_answer_without_text(body: bytes) -> None:
    with pytest.raises(RunError, match="answer to BedrockCompletion holds no text"):
        text_of("BedrockCompletion", body)
