"""An engine's answer in Groq's dialect: whole, or chunk by chunk. Pure: the clock is handed in."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qat.serve.gateway.errors import INTERNAL, dumps
from qat.serve.gateway.request import ChatRequest
from qat.serve.gateway.sse import DONE, event

_TOKEN_DETAILS = ("prompt_tokens_details", "completion_tokens_details")


class BadAnswer(Exception):
    """The engine's answer is not one of the OpenAI API, or is an error, in its words."""


@dataclass
class Usage:
    """Tokens and times of one request.

    Attributes:
        queue_time: seconds that it waited in the gateway.
        prompt_tokens: as the engine counts them; 0: it did not say.
        completion_tokens: as the engine counts them; else the pieces of text that came.
    """

    clock: Callable[[], float] = time.monotonic
    started: float = 0.0
    queue_time: float = 0.0
    first: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    def begin(self, queue_time: float) -> None:
        """The engine is asked now."""
        self.queue_time, self.started = queue_time, self.clock()

    def saw_piece(self) -> None:
        """A piece of the answer came."""
        if self.first is None:
            self.first = self.clock()
        if not self.counted:
            self.completion_tokens += 1

    def take(self, usage: Any) -> None:
        """The engine's own count, if ``usage`` is one."""
        if not isinstance(usage, dict):
            return
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if all(isinstance(count, int) for count in counts):
            self.prompt_tokens, self.completion_tokens = counts  # type: ignore[assignment]
            self.details = {name: usage[name] for name in _TOKEN_DETAILS if isinstance(usage.get(name), dict)}
            self.counted = True

    @property
    def total_tokens(self) -> int:
        """Prompt and answer."""
        return self.prompt_tokens + self.completion_tokens

    def report(self) -> dict[str, Any]:
        """Groq's ``usage``. Without a stream the end of the prompt is not known: ``completion_time`` is all of it."""
        total = self.clock() - self.started
        times = {"queue_time": self.queue_time, "completion_time": total, "total_time": total}
        if self.first is not None:
            times["prompt_time"] = self.first - self.started
            times["completion_time"] = total - times["prompt_time"]
        counts = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }
        return counts | {name: round(seconds, 9) for name, seconds in times.items()} | self.details


class Answer:
    """Says an engine's answer again, with Groq's fields and without the engine's own.

    Args:
        request: the client's.
        usage: counted on; begun by the caller.
        request_id: ``x_groq.id``.
    """

    def __init__(self, request: ChatRequest, usage: Usage, request_id: str) -> None:
        self.usage = usage
        self.finished = False
        self._model = request.model
        self._request_id = request_id
        self._include_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._seed = {} if request.seed is None else {"seed": request.seed}
        self._id = f"chatcmpl-{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._fingerprint: str | None = None
        self._begun = False
        self._last: dict[str, Any] | None = None

    def whole(self, answer: Any) -> dict[str, Any]:
        """An answer that is no stream.

        Raises:
            BadAnswer: see there.
        """
        choices = _choices(answer)
        self._identify(answer)
        self.usage.take(answer.get("usage"))
        body = self._head("chat.completion", [_choice(choice, "message") for choice in choices])
        body["usage"] = self.usage.report()
        return body | {"x_groq": {"id": self._request_id} | self._seed, "service_tier": "on_demand"}

    def chunk(self, data: bytes) -> Iterator[bytes]:
        """Events for one event of the engine; the last one is held back until the usage is there.

        Raises:
            BadAnswer: see there.
        """
        if data == DONE:
            yield from self.end()
            return
        if self.finished:
            return
        answer = _loads(data)
        choices = _choices(answer)
        self.usage.take(answer.get("usage"))
        if not choices:
            return
        if not self._begun:
            self._identify(answer)
        if self._last is not None:
            yield self._event(self._last)
            self._last = None
        made = [_choice(choice, "delta") for choice in choices]
        if any(choice["delta"].keys() - {"role"} for choice in made):
            self.usage.saw_piece()
        chunk = self._head("chat.completion.chunk", made)
        if any(choice["finish_reason"] is not None for choice in made):
            self._last = chunk
        else:
            yield self._event(chunk)

    def end(self) -> Iterator[bytes]:
        """Events for the end of the engine's stream.

        Raises:
            BadAnswer: it ended before its answer did.
        """
        if self.finished:
            return
        if self._last is None:
            raise BadAnswer("the engine ended the stream before the answer")
        self.finished = True
        usage = self.usage.report()
        x_groq = {"id": self._request_id, "usage": usage} | self._seed
        self._begun = True
        yield self._event(self._last | {"x_groq": x_groq})
        if self._include_usage:
            yield self._event(self._head("chat.completion.chunk", []) | {"usage": usage, "x_groq": x_groq})
        yield event(DONE)

    def broken(self, reason: str) -> Iterator[bytes]:
        """Events for a stream that cannot go on: Groq's ``x_groq.error``, and one at which the SDKs raise.

        Without the second a program that does not look into ``x_groq`` takes half an answer for a whole one.
        """
        if self.finished:
            return
        self.finished = self._begun = True
        x_groq = {"id": self._request_id, "error": reason}
        yield self._event(self._head("chat.completion.chunk", []) | {"x_groq": x_groq})
        yield event(dumps({"error": {"message": reason, "type": INTERNAL}}), "error")
        yield event(DONE)

    def _event(self, chunk: dict[str, Any]) -> bytes:
        if not self._begun:
            self._begun = True
            chunk = chunk | {"x_groq": {"id": self._request_id}}
        return event(dumps(chunk))

    def _identify(self, answer: dict[str, Any]) -> None:
        """Keep what the engine calls its answer, for all chunks; its log may have it."""
        if isinstance(answer.get("id"), str) and answer["id"]:
            self._id = answer["id"]
        if isinstance(answer.get("created"), int):
            self._created = answer["created"]
        if isinstance(answer.get("system_fingerprint"), str):
            self._fingerprint = answer["system_fingerprint"]

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }


def _loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        # transformers puts its message between quotation marks as it is.
        if error := re.match(rb'\{"error": "(.*)"\}', data, re.DOTALL):
            raise BadAnswer(error[1].decode("utf-8", "replace")) from None
        raise BadAnswer("the engine's stream has an event that is not JSON") from None


def _choices(answer: Any) -> list[dict[str, Any]]:
    if isinstance(answer, dict):
        if (error := answer.get("error")) is not None:
            raise BadAnswer(str(error["message"] if isinstance(error, dict) and "message" in error else error))
        choices = answer.get("choices")
        if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
            return choices
    raise BadAnswer("the engine's answer has no list of choices")


def _choice(choice: dict[str, Any], key: str) -> dict[str, Any]:
    """Index, what is said, and why it ended."""
    said = choice.get(key)
    if not isinstance(said, dict):
        if key == "message" or said is not None:
            raise BadAnswer(f"a choice of the engine's answer has no {key}")
        said = {}
    kept = {name: said[name] for name in ("role", "content", "reasoning", "tool_calls") if said.get(name)}
    if "reasoning" not in kept and said.get("reasoning_content"):
        kept["reasoning"] = said["reasoning_content"]
    if key == "message":
        kept = {"role": "assistant", "content": said.get("content")} | kept
    return {
        "index": choice.get("index", 0),
        key: kept,
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }
