"""An OpenAI-compatible server that streams at a fixed rate and computes nothing; scripts/load_test.py starts it.

python scripts/fixed_rate_engine.py <port> <tokens a second of each stream> <tokens of a stream> <spread>

A token is `<the message> <its index> <the time>;`, with the machine's monotonic clock, which all processes share: a
reader knows by it whether the stream is its own, whether a token is missing, and how long it took.

Where in the interval a stream's tokens come is the engine's own choice, not that of the moment of the request:
else a gateway would be measured on how it starts streams. With spread 1 they are spread evenly; with 0 all streams get
their token at the same moment, as from an engine that computes them in one batch.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

HEAD = {"id": "chatcmpl-fixed", "object": "chat.completion.chunk", "created": 0, "model": "fixed"}
GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, without their integer parts, are spread evenly however many they are."""


def chunk(content: str | None, finish: str | None = None) -> bytes:
    """One server-sent event."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return f"data: {json.dumps(HEAD | {'choices': [choice]})}\n\n".encode()


def application(rate: float, tokens: int, spread: float) -> Starlette:
    """The server's endpoints."""
    numbers = itertools.count()

    async def stream(message: str) -> AsyncIterator[bytes]:
        phase = next(numbers) * GOLDEN % 1 * spread
        began = math.ceil(time.monotonic() * rate) / rate + phase / rate
        for index in range(tokens):
            # To the schedule and not by intervals: a late token does not make all later ones late.
            await asyncio.sleep(max(0.0, began + index / rate - time.monotonic()))
            yield chunk(f"{message} {index} {time.monotonic_ns()};")
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        yield chunk(None, "stop")
        yield f"data: {json.dumps(HEAD | {'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()

    async def chat(request: Request) -> Response:
        body = await request.json()
        return StreamingResponse(stream(body["messages"][-1]["content"]), media_type="text/event-stream")

    async def health(request: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/health", health), Route("/v1/chat/completions", chat, methods=["POST"])])


if __name__ == "__main__":
    port, rate, tokens, spread = sys.argv[1:]
    uvicorn.run(application(float(rate), int(tokens), float(spread)), port=int(port), log_level="error", backlog=2048)
