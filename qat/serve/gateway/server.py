"""The gateway's own server: a socket, and uvicorn on it."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from qat.errors import InputError
from qat.serve.gateway.options import Gateway

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that its port is known and nobody else's.

    Raises:
        InputError: the address is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"gateway.host={host}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}; give another gateway.port") from error
    bound.set_inheritable(True)
    return bound


def url(bound: socket.socket) -> str:
    """The base URL for clients: with this machine's own address where it listens on all."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(app: ASGIApp, options: Gateway) -> uvicorn.Server:
    """Not running yet. At the end it takes no new request, and lets those that run finish for a while."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(options.shutdown_seconds),
    )
    return uvicorn.Server(config)


@contextmanager
def ended_by_signals(running: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM end the server, and nothing else.

    uvicorn raises what it caught again when it has ended, to whatever handled it before: of SIGTERM the end of the
    process, with the engine left behind. Here that is nobody.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        running.should_exit = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
