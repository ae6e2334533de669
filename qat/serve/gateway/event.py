"""One event of an engine's stream, read: what it adds to the answer."""

from __future__ import annotations

import json
import re
from typing import Any


class BadAnswer(Exception):
    """The engine's answer is not one of the OpenAI API, or is an error, in its words."""


def read(data: bytes) -> dict[str, Any]:
    """The event, with a list of ``choices``.

    Raises:
        BadAnswer: see there.
    """
    answer = _loads(data)
    if isinstance(answer, dict):
        if (error := answer.get("error")) is not None:
            raise BadAnswer(str(error["message"] if isinstance(error, dict) and "message" in error else error))
        choices = answer.get("choices")
        if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
            return answer
    raise BadAnswer("the engine's answer has no list of choices")


def groq_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Index, what is said, and why it ended, of a choice of the event; without the engine's own fields.

    Raises:
        BadAnswer: see there.
    """
    said = choice.get("delta")
    if said is None:
        said = {}
    if not isinstance(said, dict):
        raise BadAnswer("a choice of the engine's answer has no delta")
    kept = {name: said[name] for name in ("role", "content", "reasoning", "tool_calls") if said.get(name)}
    if "reasoning" not in kept and said.get("reasoning_content"):
        kept["reasoning"] = said["reasoning_content"]
    return {
        "index": choice.get("index", 0),
        "delta": kept,
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }


def _loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        # transformers puts its message between quotation marks as it is.
        if error := re.match(rb'\{"error": "(.*)"\}', data, re.DOTALL):
            raise BadAnswer(error[1].decode("utf-8", "replace")) from None
        raise BadAnswer("the engine's stream has an event that is not JSON") from None
