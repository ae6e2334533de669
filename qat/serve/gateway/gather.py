"""An engine's stream gathered, for a client that wants its answer whole.

The engine is asked for a stream in either case: transformers' and llama.cpp's servers compute an answer that is not
streamed to its end, whether or not somebody still waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qat.serve.gateway.answer import Answer
from qat.serve.gateway.event import BadAnswer
from qat.serve.gateway.sse import DONE


@dataclass
class _Choice:
    """Pieces of one choice."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        said = choice["delta"]
        for name, pieces in (("content", self.content), ("reasoning", self.reasoning)):
            if name in said:
                pieces.append(str(said[name]))
        for place, call in enumerate(said.get("tool_calls", ())):
            _merge(self.calls.setdefault(call.get("index", place), {"type": "function"}), call)
        self.finish_reason = choice["finish_reason"] or self.finish_reason

    def message(self) -> dict[str, Any]:
        """As it would be, had it come whole: null for the text of one that only calls tools."""
        content = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not self.calls else None}
        if self.reasoning:
            message["reasoning"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return message


class GatheredAnswer(Answer):
    """Puts the pieces of the engine's stream together; see the base class."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._choices: dict[int, _Choice] = {}

    def add(self, data: bytes) -> None:
        """Take one event of the engine.

        Raises:
            BadAnswer: see there.
        """
        if data != DONE:
            for choice in self.take(data):
                self._choices.setdefault(choice["index"], _Choice()).add(choice)

    def whole(self) -> dict[str, Any]:
        """The answer.

        Raises:
            BadAnswer: the stream ended before it did.
        """
        if not self._choices or any(choice.finish_reason is None for choice in self._choices.values()):
            raise BadAnswer("the engine ended the stream before the answer")
        choices = [
            {"index": index, "message": choice.message(), "logprobs": None, "finish_reason": choice.finish_reason}
            for index, choice in sorted(self._choices.items())
        ]
        body = self.head("chat.completion", choices) | {"usage": self.usage.report()}
        return body | {"x_groq": self._x_groq | self._seed, "service_tier": "on_demand"}


def _merge(call: dict[str, Any], piece: dict[str, Any]) -> None:
    """The first piece of a call names it, the others go on with its arguments."""
    call |= {name: piece[name] for name in ("id", "type") if piece.get(name)}
    function = call.setdefault("function", {"name": "", "arguments": ""})
    for name in function:
        function[name] += (piece.get("function") or {}).get(name) or ""
