"""``POST /openai/v1/chat/completions``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from qat.serve.gateway import groq
from qat.serve.gateway.answer import StreamedAnswer
from qat.serve.gateway.errors import INTERNAL, NO_RETRY, ApiError
from qat.serve.gateway.event import BadAnswer
from qat.serve.gateway.exchange import ClientGone, Exchange
from qat.serve.gateway.gather import GatheredAnswer
from qat.serve.gateway.limits import Bucket, Slots
from qat.serve.gateway.metrics import Metrics
from qat.serve.gateway.options import Gateway
from qat.serve.gateway.prompts import Prompts
from qat.serve.gateway.request import ChatRequest, parse
from qat.serve.gateway.sse import Decoder
from qat.serve.gateway.upstream import Upstream
from qat.serve.gateway.usage import Usage

_LAST_WORDS_SECONDS = 1.0
"""That a client which does not read gets to take the error at the end of its stream."""
_CANCELLED = 499
_FAILED = 500
_DAY, _MINUTE = 86400, 60


class Chat:
    """The endpoint, an ASGI application.

    Args:
        options: the gateway's.
        upstream: the engine's server.
        prompts: whether they fit.
        model: its name for the model.
        names: those by which clients may ask for it.
        refuses: fields that the server does not take.
    """

    def __init__(
        self,
        options: Gateway,
        upstream: Upstream,
        prompts: Prompts,
        model: str,
        names: Sequence[str],
        refuses: frozenset[str],
    ) -> None:
        self.slots = Slots(options.max_concurrent, options.max_waiting)
        self.metrics = Metrics(self.slots)
        self._options = options
        self._upstream = upstream
        self._prompts = prompts
        self._model = model
        self._names = names
        self._refuses = refuses
        self._requests = Bucket("requests", options.requests_per_day, _DAY)
        self._tokens = Bucket("tokens", options.tokens_per_minute, _MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with an error object if it has no other answer."""
        exchange, usage = Exchange(scope, receive, send), Usage()
        began, status = time.monotonic(), _FAILED
        try:
            status = await self._respond(exchange, usage)
        except asyncio.CancelledError:
            status = _CANCELLED
            raise
        finally:
            self.metrics.answered(status, time.monotonic() - began, usage)

    async def _respond(self, exchange: Exchange, usage: Usage) -> int:
        """Answer, or send the error; the status that it comes to."""
        limit = self._options.time_limit
        try:
            async with asyncio.timeout(limit):
                await self._answer(exchange, usage)
            return exchange.status or _FAILED
        except ClientGone:
            return _CANCELLED
        except TimeoutError:
            error = ApiError(504, f"no answer within {limit:g} seconds", "timeout", headers=NO_RETRY)
        except ApiError as refusal:
            error = refusal
        if exchange.status is None:  # else it is at the end of the stream
            exchange.headers |= self._limits()
            await exchange.send_json(error.body, error.status, error.headers)
        return error.status

    async def _answer(self, exchange: Exchange, usage: Usage) -> None:
        request = parse(await exchange.body(self._options.max_request_bytes))
        groq.check_model(request.model, self._names)
        groq.refuse(request)
        body = groq.engine_request(request, self._model, self._refuses)
        self._requests.check()
        self._tokens.check()
        await exchange.while_there(self._in_a_slot(exchange, usage, request, body))

    async def _in_a_slot(self, exchange: Exchange, usage: Usage, request: ChatRequest, body: dict[str, Any]) -> None:
        usage.expected = await self._prompts.fit(body)
        async with self.slots.one(patient=request.service_tier != "flex") as queue_time:
            self._requests.check()  # others may have used it up while this one waited
            self._requests.take(1)
            usage.begin(queue_time)
            if request.stream:
                await self._stream(exchange, StreamedAnswer(request, usage, exchange.id), body)
            else:
                await self._whole(exchange, GatheredAnswer(request, usage, exchange.id), body)

    async def _whole(self, exchange: Exchange, answer: GatheredAnswer, body: dict[str, Any]) -> None:
        """Gather the stream."""
        try:
            async with self._upstream.stream(body) as response:
                decoder = Decoder()
                async for piece in response.aiter_raw():
                    for data in decoder.feed(piece):
                        answer.add(data)
                for data in decoder.end():
                    answer.add(data)
            made = answer.whole()
        except BadAnswer as error:
            raise ApiError(502, str(error), INTERNAL) from None
        finally:
            self._tokens.take(answer.usage.total_tokens)
        exchange.headers |= self._limits()
        await exchange.send_json(made)

    async def _stream(self, exchange: Exchange, answer: StreamedAnswer, body: dict[str, Any]) -> None:
        """Pass the stream on; what goes wrong once it has begun is said at its end."""
        try:
            async with self._upstream.stream(body) as response:
                exchange.headers |= self._limits()
                await exchange.start_stream()
                decoder = Decoder()
                async for piece in response.aiter_raw():
                    await _pass_on(exchange, answer, decoder.feed(piece))
                await _pass_on(exchange, answer, decoder.end())
                await exchange.send_piece(b"".join(answer.end()), more=False)
        except (ApiError, BadAnswer) as error:
            if exchange.status is None:
                raise
            await _say_broken(exchange, answer, str(error))
        except asyncio.CancelledError:
            if exchange.status is not None:
                await _say_broken(exchange, answer, "ended by the gateway: the request's time is up, or it shuts down")
            raise
        finally:
            self._tokens.take(answer.usage.total_tokens)

    def _limits(self) -> dict[str, str]:
        return self._requests.headers() | self._tokens.headers()


async def _pass_on(exchange: Exchange, answer: StreamedAnswer, events: Iterable[bytes]) -> None:
    """What one piece of the engine's stream makes, as one piece; sent also if it ends in an error."""
    made: list[bytes] = []
    try:
        for data in events:
            for chunk in answer.chunk(data):
                made.append(chunk)
    finally:
        if made:
            await exchange.send_piece(b"".join(made))


async def _say_broken(exchange: Exchange, answer: StreamedAnswer, reason: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await exchange.send_piece(b"".join(answer.broken(reason)), more=False)
