"""The smoke test: one short question to a new model in each of Bedrock's three request formats.

A model that nobody asked for five minutes is not in memory. The first call brings it back, which takes minutes and
answers ``ModelNotReadyException`` meanwhile; AWS's SDK gives up on that after seconds, so the loop here goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.aws.waiting import Pauses
from qat.errors import RunError

NOT_READY = "ModelNotReadyException"
MOST_TOKENS = 16
CHAT = "OpenAIChatCompletion"

FORMATS: Mapping[str, Callable[[str], dict[str, Any]]] = MappingProxyType(
    {
        "BedrockCompletion": lambda prompt: {"prompt": prompt, "max_gen_len": MOST_TOKENS, "temperature": 0},
        "OpenAICompletion": lambda prompt: {"prompt": prompt, "max_tokens": MOST_TOKENS, "temperature": 0},
        CHAT: lambda prompt: {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MOST_TOKENS,
            "temperature": 0,
        },
    }
)
"""Name of a request format -> the body that asks a prompt in it."""

_REHEARSED = {"generation": "", "choices": [{"text": "", "message": {"content": ""}}]}


def invocation(model: str, kind: str, prompt: str) -> Call:
    """InvokeModel in one of :data:`FORMATS`."""
    body = json.dumps(FORMATS[kind](prompt)).encode()
    parameters = {"modelId": model, "body": body, "contentType": "application/json", "accept": "application/json"}
    return Call("bedrock-runtime", "InvokeModel", parameters)


def smoke(aws: Aws, model: str, prompt: str, instruct: bool, ready_minutes: float) -> dict[str, str]:
    """Ask ``prompt`` in every format and tell the answers.

    Args:
        aws: the way there.
        model: ARN.
        prompt: the question.
        instruct: whether the model has a chat template; the chat format is left out without.
        ready_minutes: how long a cold model may take.

    Returns:
        format -> what the model wrote.

    Raises:
        RunError: no answer in a format, or one without text.
    """
    answers = {}
    for kind in FORMATS:
        if kind == CHAT and not instruct:
            aws.say(f"{kind}: not asked: AWS says that the model has no chat template (instructSupported)", "yellow")
            continue
        pauses = Pauses(first=5.0, longest=60.0, total=ready_minutes * 60)
        rehearsed = {"body": json.dumps(_REHEARSED).encode()}
        try:
            answer = aws.send(invocation(model, kind, prompt), rehearsed, pauses, again=_is_cold)
        except AwsError as error:
            if error.code != NOT_READY:
                raise
            raise RunError(
                f"{model} is not ready after {ready_minutes:g} min; push again, or set target.ready_minutes"
            ) from None
        answers[kind] = text_of(kind, answer["body"])
        if not aws.dry_run:
            aws.say(f"{kind}: {answers[kind]!r}")
    return answers


def text_of(kind: str, body: bytes) -> str:
    """What the model wrote.

    Raises:
        RunError: the answer is no JSON or holds no text.
    """
    try:
        answer = json.loads(body)
        if kind == CHAT:
            return str(answer["choices"][0]["message"]["content"])
        if "generation" in answer:  # Llama's own answer; others have a list
            return str(answer["generation"])
        return str(answer["choices" if "choices" in answer else "outputs"][0]["text"])
    except (ValueError, LookupError, TypeError):
        raise RunError(f"the model's answer to {kind} holds no text: {body[:200].decode(errors='replace')}") from None


def _is_cold(error: AwsError) -> bool:
    return error.transient or error.code in (NOT_READY, "ModelTimeoutException")
