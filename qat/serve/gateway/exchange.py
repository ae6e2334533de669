"""One request and its response: what has been received, what has been sent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from qat.serve.gateway.errors import ApiError, dumps

_DRAIN = 16
"""Times the allowed size that is read and forgotten: most clients look for an answer only when they have sent all."""


class ClientGone(Exception):
    """Nobody waits for an answer any more."""


class Exchange:
    """A client's request, and how far the response to it is.

    Attributes:
        id: Groq's request id, ``x_groq.id``.
        headers: of the response, whatever it will be.
        status: of the response; None: it has not begun.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = f"req_{secrets.token_hex(13)}"
        self.headers = {"x-request-id": self.id}
        self.status: int | None = None
        self._scope = scope
        self._receive = receive
        self._send = send

    async def body(self, limit: int) -> bytes:
        """The JSON body of the request.

        Raises:
            ApiError: 415: it says that it is something else; 413: it has more than ``limit`` bytes.
            ClientGone: it did not come whole.
        """
        kind = Headers(scope=self._scope).get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            # Also keeps a web page from asking through its visitor's browser: no form can send this type.
            raise ApiError(415, f"the content type is '{kind}'; send application/json")
        pieces, size, more = [], 0, True
        while more and size <= _DRAIN * limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            size += len(message.get("body", b""))
            if size <= limit:
                pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        if size > limit:
            raise ApiError(413, f"the body has more than {limit} bytes, which is the limit", code="request_too_large")
        return b"".join(pieces)

    async def while_there(self, work: Coroutine[None, None, None]) -> None:
        """Do ``work``, which sends the response; cancel it when the client leaves. The body has been read.

        Raises:
            ClientGone: it left before the work was done.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._disconnect())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            task.result()
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def send_json(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Respond with JSON."""
        content = dumps(body)
        length = {"content-length": str(len(content)), "content-type": "application/json"}
        await self._start(status, length | dict(headers or {}))
        await self.send_piece(content, more=False)

    async def start_stream(self) -> None:
        """Respond with events, by :meth:`send_piece`."""
        await self._start(200, {"content-type": "text/event-stream", "cache-control": "no-cache"})

    async def send_piece(self, body: bytes, more: bool = True) -> None:
        """A piece of the response; waits while the client is behind with reading."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        pairs = [(name.encode(), value.encode()) for name, value in {**self.headers, **headers}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
