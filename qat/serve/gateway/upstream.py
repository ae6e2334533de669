"""The engine's server, as the gateway asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from qat.serve.gateway.errors import INTERNAL, ApiError, bad_request

_CHAT = "/v1/chat/completions"
_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 5.0
_KEEP_SECONDS = 2.0
"""That an idle connection is kept: less than the 5 after which uvicorn, which most engines use, closes it."""


class Upstream:
    """Sends requests to an OpenAI-compatible server. Cancelling one closes its connection, so that the engine stops.

    Args:
        url: of the server, without ``/v1``.
        health: its path that answers 200.
        model: its name for the model, which clients do not get to see.
        name: the name that they do.
        key: API key that the server asks for; None: none.
    """

    def __init__(self, url: str, health: str, model: str, name: str, key: str | None = None) -> None:
        self._health = health
        self._model = model
        self._name = name
        self._url = url
        self._headers = {"accept-encoding": "identity"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._idle: list[httpx.AsyncClient] = []

    async def close(self) -> None:
        """Close all connections."""
        for client in self._idle:
            await client.aclose()

    async def healthy(self) -> bool:
        """Whether the server says that it is well."""
        try:
            async with self._client() as client:
                return (await client.get(self._health, timeout=_HEALTH_SECONDS)).status_code == 200
        except httpx.HTTPError:
            return False

    @asynccontextmanager
    async def stream(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """The response to a chat request, of status 200 and a stream, unread.

        Raises:
            ApiError: the server's own error, or there is no server, or its connection breaks inside the context.
        """
        try:
            async with self._client() as client, client.stream("POST", _CHAT, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refusal(response)
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    await response.aread()
                    raise ApiError(502, f"the engine's answer is no stream: {_message(response)}", INTERNAL)
                yield response
        except httpx.ConnectError:
            raise ApiError(503, "the engine behind this gateway does not answer", "service_unavailable") from None
        except httpx.HTTPError as error:
            raise ApiError(502, f"the connection to the engine broke: {type(error).__name__}", INTERNAL) from None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request, with a connection of its own, which is kept for the next one.

        In a pool of all connections httpcore looks at each for each when a request starts and when it ends: with 200
        that stops every stream for milliseconds.
        """
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # the whole request has a limit of its own
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_SECONDS),
            verify=self._tls,
            trust_env=False,  # no proxy between this machine and itself
        )

    def _refusal(self, response: httpx.Response) -> ApiError:
        message = _message(response).replace(self._model, self._name)
        if response.status_code in (400, 404, 413, 422):  # FastAPI says 422 where OpenAI and Groq say 400
            return bad_request(f"the engine refused the request: {message}")
        if response.status_code in (429, 503):
            return ApiError(503, f"the engine is overloaded: {message}", "service_unavailable")
        return ApiError(502, f"the engine failed with status {response.status_code}: {message}", INTERNAL)


def _message(response: httpx.Response) -> str:
    """What an error response says: OpenAI's form, FastAPI's, or its text."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:500]
    if isinstance(body, dict):
        error = body.get("error", body)
        for name in ("message", "detail"):
            if isinstance(error, dict) and name in error:
                return str(error[name])[:500]
    return str(body)[:500]
