"""An engine's server as a process: started, waited for, and ended with whatever it started itself."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from rich.console import Console

from qat.engines.serving import ServerLaunch
from qat.errors import InputError, RunError
from qat.logged import LoggedProcess

_POLL_SECONDS = 0.2
_HEALTH_SECONDS = 5.0
_GRACE_SECONDS = 10.0
_LOOPBACK = "127.0.0.1"
_ATTACHED = Path(__file__).with_name("attached.py")


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


class EngineServer:
    """The server that a :class:`~qat.engines.serving.ServerLaunch` describes; running inside its context.

    It ends with the context, and with this process, also where that is killed.

    Args:
        launch: how it is started.
        port: that it was told to listen on.
        name: what messages call it.

    Attributes:
        url: of the server, without ``/v1``.
        key: API key that it asks for, made anew for each server; None: it takes none.

    Raises:
        InputError: at the start: there is no such program.

    Example:
        >>> port = free_port()
        >>> with EngineServer(engine.server(export, port, None), port, "llama_cpp") as server:
        ...     server.wait_until_healthy(60.0, console)
    """

    def __init__(self, launch: ServerLaunch, port: int, name: str) -> None:
        self.url = f"http://{_LOOPBACK}:{port}"
        self.key = None if launch.key_variable is None else secrets.token_hex(32)
        self._launch = launch
        self._name = name

    def __enter__(self) -> Self:
        # Its lines are wanted when it writes them, also where its Python would keep them for a pipe.
        environment = {"PYTHONUNBUFFERED": "1", **self._launch.environment}
        if self._launch.key_variable is not None and self.key is not None:
            environment[self._launch.key_variable] = self.key
        program = self._launch.command[0]
        if shutil.which(program) is None:
            raise InputError(f"{self._name} cannot be started: there is no program {program}")
        command = (sys.executable, "-I", "-S", str(_ATTACHED), str(os.getpid()), *self._launch.command)
        self._process = LoggedProcess(self._name, command, environment, grace=_GRACE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()

    def wait_until_healthy(self, time_limit: float, console: Console) -> None:
        """Return when it answers.

        Raises:
            RunError: it ended, or did not answer within ``time_limit`` seconds; with the last that it printed.
        """
        deadline = time.monotonic() + time_limit
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        with console.status("") as status, httpx.Client(base_url=self.url, headers=headers, trust_env=False) as client:
            while not self._healthy(client):
                if not self._process.alive:
                    raise self._process.ended()
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{self._name} was not ready within {time_limit:g} seconds; give it more by "
                        f"gateway.start_seconds{self._process.last_words()}"
                    )
                status.update(f"{self._name} is starting{self._process.last_words()[:100]}")
                time.sleep(_POLL_SECONDS)

    def wait(self) -> RunError:
        """Return when the process has ended, with how it did."""
        self._process.wait()
        return self._process.ended()

    def _healthy(self, client: httpx.Client) -> bool:
        try:
            return client.get(self._launch.health, timeout=_HEALTH_SECONDS).status_code == 200
        except httpx.HTTPError:
            return False
