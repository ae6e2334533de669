"""Who may ask."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qat.serve.gateway.errors import ApiError

_OPEN = ("/health", "/health/live")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """ASGI middleware in front of everything but the health endpoints.

    With a key it asks for that. Without, it asks that it is called by a loopback name: a web page that leads its
    visitor's browser here under a name of its own (DNS rebinding) cannot do that.

    Args:
        app: what is guarded.
        key: the API key; None: this machine's programs need none.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request on, and refuse any other."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> ApiError | None:
        if self._key is None:
            host = headers.get("host", "")
            if host in _LOOPBACK or host.rpartition(":")[0] in _LOOPBACK:
                return None
            return ApiError(403, f"the host is '{host}'; without an API key only {', '.join(_LOOPBACK)} are served")
        kind, _, given = headers.get("authorization", "").partition(" ")
        # Latin-1 is what the bytes of the header were read as.
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            return None
        return ApiError(401, "Invalid API Key", code="invalid_api_key")
