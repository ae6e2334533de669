"""An engine's stream in Groq's dialect: chunk by chunk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from qat.serve.gateway.errors import INTERNAL, dumps
from qat.serve.gateway.event import BadAnswer, groq_choice, read
from qat.serve.gateway.request import ChatRequest
from qat.serve.gateway.sse import DONE, event
from qat.serve.gateway.usage import Usage


class Answer:
    """What every answer has: Groq's fields, and none of the engine's own.

    Args:
        request: the client's.
        usage: counted on; begun by the caller.
        request_id: ``x_groq.id``.
    """

    def __init__(self, request: ChatRequest, usage: Usage, request_id: str) -> None:
        self.usage = usage
        self._model = request.model
        self._x_groq: dict[str, Any] = {"id": request_id}
        self._seed = {} if request.seed is None else {"seed": request.seed}
        self._id = f"chatcmpl-{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._fingerprint: str | None = None
        self._identified = False

    def take(self, data: bytes) -> list[dict[str, Any]]:
        """Groq's choices of one event of the engine; the usage counts it.

        Raises:
            BadAnswer: see there.
        """
        answer = read(data)
        self.usage.take(answer.get("usage"))
        made = [groq_choice(choice) for choice in answer["choices"]]
        if made and not self._identified:
            self._identify(answer)
        if any(choice["delta"].keys() - {"role"} for choice in made):
            self.usage.saw_piece()
        return made

    def head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields of an object ``kind``."""
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

    def _identify(self, answer: dict[str, Any]) -> None:
        """Keep what the engine calls its answer, for all chunks; its log may have it."""
        self._identified = True
        if isinstance(answer.get("id"), str) and answer["id"]:
            self._id = answer["id"]
        if isinstance(answer.get("created"), int):
            self._created = answer["created"]
        if isinstance(answer.get("system_fingerprint"), str):
            self._fingerprint = answer["system_fingerprint"]


class StreamedAnswer(Answer):
    """Says the engine's stream again; see the base class."""

    def __init__(self, request: ChatRequest, usage: Usage, request_id: str) -> None:
        super().__init__(request, usage, request_id)
        self._include_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._finished = False
        self._begun = False
        self._last: dict[str, Any] | None = None

    def chunk(self, data: bytes) -> Iterator[bytes]:
        """Events for one event of the engine; the last one is held back until the usage is there.

        Raises:
            BadAnswer: see there.
        """
        if data == DONE:
            yield from self.end()
            return
        if self._finished:
            return
        made = self.take(data)
        if not made:
            return
        if self._last is not None:
            yield self._event(self._last)
            self._last = None
        chunk = self.head("chat.completion.chunk", made)
        if any(choice["finish_reason"] is not None for choice in made):
            self._last = chunk
        else:
            yield self._event(chunk)

    def end(self) -> Iterator[bytes]:
        """Events for the end of the engine's stream.

        Raises:
            BadAnswer: it ended before its answer did.
        """
        if self._finished:
            return
        if self._last is None:
            raise BadAnswer("the engine ended the stream before the answer")
        self._finished = True
        usage = self.usage.report()
        x_groq = self._x_groq | {"usage": usage} | self._seed
        self._begun = True
        yield self._event(self._last | {"x_groq": x_groq})
        if self._include_usage:
            yield self._event(self.head("chat.completion.chunk", []) | {"usage": usage, "x_groq": x_groq})
        yield event(DONE)

    def broken(self, reason: str) -> Iterator[bytes]:
        """Events for a stream that cannot go on: Groq's ``x_groq.error``, and one at which the SDKs raise.

        Without the second a program that does not look into ``x_groq`` takes half an answer for a whole one.
        """
        if self._finished:
            return
        self._finished = self._begun = True
        yield self._event(self.head("chat.completion.chunk", []) | {"x_groq": self._x_groq | {"error": reason}})
        yield event(dumps({"error": {"message": reason, "type": INTERNAL}}), "error")
        yield event(DONE)

    def _event(self, chunk: dict[str, Any]) -> bytes:
        if not self._begun:
            self._begun = True
            chunk = chunk | {"x_groq": self._x_groq}
        return event(dumps(chunk))
