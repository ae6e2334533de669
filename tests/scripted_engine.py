"""An engine's server that answers as it is told, and any ASGI application over real HTTP on the loopback address."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from qat.serve.gateway.options import Gateway
from qat.serve.gateway.server import listen, server, url

LIMIT = 30.0
GATE = b"gate"
CRASH = b"crash"


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a stream as vLLM sends it; ``delta`` None: no choice at all."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": None}]
    head = {"id": "chatcmpl-engine", "object": "chat.completion.chunk", "created": 1700000000, "model": "engine/model"}
    return event(head | {"choices": choices} | more)


def comes_true(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + LIMIT
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return true


class Engine:
    """An OpenAI-compatible server that answers with the words of the last message, or as it is told to.

    Attributes:
        received: bodies of the chat requests.
        script: what a stream consists of, in place of the words; GATE waits for ``opened``, CRASH breaks off.
        answer: a response without a stream and its status, in place of the words.
        key: API key that it asks for; None: none.
        left: streams that nobody waited for any more.
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.script: list[bytes] | None = None
        self.answer: tuple[int, Any] | None = None
        self.key: str | None = None
        self.health = 200
        self.left = 0
        self.opened = threading.Event()
        routes = [Route("/health", self._health), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def _health(self, request: Request) -> Response:
        return Response(status_code=self.health if self._knows(request) else 401)

    async def _chat(self, request: Request) -> Response:
        if not self._knows(request):
            return JSONResponse({"error": {"message": "Invalid API key"}}, 401)
        body = await request.json()
        self.received.append(body)
        if self.answer is not None:
            return JSONResponse(self.answer[1], self.answer[0])
        assert body["stream"] is True, "an answer that is not streamed is computed to its end whoever leaves"
        words = str(body["messages"][-1].get("content")).split(" ")
        return StreamingResponse(self._stream(self.script or default(words)), media_type="text/event-stream")

    def _knows(self, request: Request) -> bool:
        return self.key is None or request.headers.get("authorization") == f"Bearer {self.key}"

    async def _stream(self, script: list[bytes]) -> AsyncIterator[bytes]:
        try:
            for piece in script:
                if piece == GATE:
                    while not self.opened.is_set():
                        await asyncio.sleep(0.01)
                elif piece == CRASH:
                    raise RuntimeError("the engine crashes")
                else:
                    yield piece
                    await asyncio.sleep(0)
        except (asyncio.CancelledError, GeneratorExit):
            self.left += 1
            raise


def default(words: list[str]) -> list[bytes]:
    """A stream of ``words`` with the usage behind the last chunk."""
    usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
    pieces = [chunk({"role": "assistant", "content": ""})]
    pieces += [chunk({"content": word if index == 0 else f" {word}"}) for index, word in enumerate(words)]
    return [*pieces, chunk({}, "stop"), chunk(None, usage=usage), b"data: [DONE]\n\n"]


@contextmanager
def serving(app: ASGIApp, options: Gateway) -> Iterator[tuple[str, Any]]:
    """``app`` on a free port, and its uvicorn server."""
    bound = listen("127.0.0.1", 0)
    running = server(app, options)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert comes_true(lambda: running.started)
        yield url(bound), running
    finally:
        running.should_exit = True
        thread.join(LIMIT)
        assert not thread.is_alive()
