"""The gateway as an ASGI application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from qat.engines.serving import PromptCounter
from qat.serve.gateway import groq
from qat.serve.gateway.chat import Chat
from qat.serve.gateway.errors import INTERNAL, ApiError, json_response
from qat.serve.gateway.guard import Guard
from qat.serve.gateway.options import Gateway
from qat.serve.gateway.prompts import Prompts
from qat.serve.gateway.upstream import Upstream

BASE = "/openai/v1"
_NOT_SERVED = ("files", "batches", "embeddings", "audio", "fine_tunings", "responses", "completions", "reranking")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_app(
    upstream: str,
    options: Gateway,
    *,
    model: str,
    name: str,
    refuses: frozenset[str] = frozenset(),
    health: str = "/health",
    key: str | None = None,
    engine_key: str | None = None,
    context: int | None = None,
    count: PromptCounter | None = None,
) -> Starlette:
    """The gateway in front of an OpenAI-compatible server.

    Args:
        upstream: URL of the server, without ``/v1``.
        options: the gateway's; its host and port are those of whoever runs the application.
        model: the server's name for the model.
        name: what clients call it; ``options.aliases`` has further names.
        refuses: fields of a request that the server does not take.
        health: path of the server that answers 200.
        key: what clients must send; None: nothing, and only to a loopback name.
        engine_key: what the server wants to be sent.
        context: tokens that prompt and answer may have together.
        count: tokens of a prompt.
    """
    names = list(dict.fromkeys([name, *options.aliases]))
    engine = Upstream(upstream, health, model, names[0], engine_key)
    chat = Chat(options, engine, Prompts(count, context), model, names, refuses)

    async def well(request: Request) -> Response:
        healthy = await engine.healthy()
        return json_response(
            {"gateway": "ok", "engine": "ok" if healthy else "does not answer"}, 200 if healthy else 503
        )

    async def alive(request: Request) -> Response:
        return json_response({"gateway": "ok"})

    async def metrics(request: Request) -> Response:
        return chat.metrics.response()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await engine.close()

    return Starlette(
        routes=[
            Route(f"{BASE}/chat/completions", chat, methods=["POST"]),
            *_models(names),
            *(Route(f"{BASE}/{kind}{{rest:path}}", _not_served, methods=_METHODS) for kind in _NOT_SERVED),
            Route("/health", well),
            Route("/health/live", alive),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(Guard, key=key)],
        exception_handlers={HTTPException: _http_error, ApiError: _api_error, Exception: _failure},
        lifespan=lifespan,
    )


def _models(names: Sequence[str]) -> list[Route]:
    created = int(time.time())

    def described(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": created, "owned_by": "qat"}

    async def every(request: Request) -> Response:
        return json_response({"object": "list", "data": [described(name) for name in names]})

    async def one(request: Request) -> Response:
        name = request.path_params["name"]
        groq.check_model(name, names)
        return json_response(described(name))

    return [Route(f"{BASE}/models", every), Route(f"{BASE}/models/{{name:path}}", one)]


async def _not_served(request: Request) -> Response:
    raise ApiError(
        404,
        f"{request.method} {request.url.path} is not served here: this gateway has chat/completions and models",
        code="not_served",
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: 404 and 405."""
    assert isinstance(error, HTTPException)
    place = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(404, f"Unknown request URL: {place}; the API is below {BASE}", code="unknown_url").response()
    return ApiError(error.status_code, f"{place}: {error.detail}", headers=error.headers).response()


async def _failure(request: Request, error: Exception) -> Response:
    return ApiError(500, "the gateway failed; its log says why", INTERNAL).response()
