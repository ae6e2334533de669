"""A worker process: started, asked, and ended with whatever it started itself."""

from __future__ import annotations

import json
import os
import selectors
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from qat.engines.base import NoLogits, NotAvailable
from qat.engines.workers.worker_protocol import pack, unpack
from qat.errors import InputError, RunError
from qat.logged import LoggedProcess

_POLL_SECONDS = 1.0
_KINDS: dict[str, type[InputError]] = {
    "InputError": InputError,
    "ValueError": InputError,
    "NotAvailable": NotAvailable,
    "NoLogits": NoLogits,
}
"""Errors of a worker, by name, that are not its own failure."""


class WorkerProcess:
    """A process that runs :func:`qat.engines.workers.worker_protocol.serve`.

    It works in a temporary folder of its own, where arrays pass through files and its output is kept, and ends with
    this object, with this process, or when it does not answer in time.

    Args:
        name: what messages call it.
        command: what to run; the protocol's arguments are added.
        environment: variables besides those of this process.

    Raises:
        InputError: the command cannot be started.
    """

    peak_memory_bytes: int | None = None
    """Largest resident memory of the worker up to its last answer."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._received = b""
        try:
            self._process = LoggedProcess(
                name,
                [*command, str(requests), str(answers), str(os.getpid())],
                environment,
                pass_fds=(requests, answers),
            )
        except InputError:
            os.close(self._requests)
            os.close(self._answers)
            raise
        finally:
            os.close(requests)
            os.close(answers)
        self._end = weakref.finalize(self, _end, self._process, (self._requests, self._answers))

    def call(self, method: str, time_limit: float, **arguments: Any) -> Any:
        """Ask the worker; numpy arrays and dicts of them may be among the arguments and in the result.

        Raises:
            InputError: the worker says that its input cannot be used.
            RunError: it failed at the method, in its own words; or it ended, or did not answer within ``time_limit``
                seconds: it is gone then.
        """
        if not self._end.alive:
            raise RunError(f"the worker of {self.name} has ended; load the export again")
        try:
            line = json.dumps({"method": method, "arguments": pack(arguments, self._process.folder)})
            self._write(line.encode() + b"\n")
            answer = self._parse(self._read(method, time_limit))
            self.peak_memory_bytes = answer["peak_memory_bytes"]
            result = unpack(answer.get("result"), self._process.folder)
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            raise _KINDS.get(answer["kind"], RunError)(answer["error"])
        return result

    def close(self) -> None:
        """End the worker, and whatever it started."""
        self._end()

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._requests, line)
        except BrokenPipeError:
            raise self._process.ended() from None

    def _read(self, method: str, time_limit: float) -> bytes:
        deadline = time.monotonic() + time_limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RunError(
                        f"{self.name} did not answer {method} within {time_limit:g} seconds and was ended"
                        f"{self._process.last_words()}"
                    )
                if not selector.select(min(left, _POLL_SECONDS)):
                    # A process that the worker started may hold the pipe open after its end.
                    if not self._process.alive and not selector.select(0):
                        raise self._process.ended()
                    continue
                received = os.read(self._answers, 1 << 16)
                if not received:
                    raise self._process.ended()
                self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
            if {"result", "error"} & answer.keys() and isinstance(answer["peak_memory_bytes"], int):
                return dict(answer)
        except (ValueError, AttributeError, KeyError):
            pass
        raise RunError(
            f"{self.name} answered {line[:80]!r}, which is not in qat's protocol{self._process.last_words()}"
        )


def _end(process: LoggedProcess, pipes: tuple[int, int]) -> None:
    for pipe in pipes:
        os.close(pipe)
    process.close()
