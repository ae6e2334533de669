"""A process that works in a temporary folder, keeps its output there, and ends with whatever it started itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from qat.errors import InputError, RunError

_LOG = "log.txt"
_TAIL_BYTES = 1 << 16
_PRIVATE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""A worker or server reads local files and tells nobody."""


class LoggedProcess:
    """A process in a process group and a temporary folder of its own; both end with this object.

    Args:
        name: what messages call it.
        command: what to run.
        environment: variables besides those of this process.
        pass_fds: descriptors that it inherits.
        grace: seconds between the request to end and the end.

    Raises:
        InputError: the command cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        grace: float = 0.0,
    ) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="qat-worker-")).resolve()
        try:
            with (self.folder / _LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={**os.environ, **_PRIVATE, "TMPDIR": str(self.folder), **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=pass_fds,
                    start_new_session=True,  # its own process group, which is ended as a whole
                )
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise InputError(f"{name} cannot be started: {error}") from error
        self._end = weakref.finalize(self, _end, self._process, self.folder, grace)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Return when the process has ended."""
        self._process.wait()

    def close(self) -> None:
        """End the process, and whatever it started; its folder goes."""
        self._end()

    def ended(self) -> RunError:
        """Why there is no answer: how the process ended, and the last that it printed."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            how = "closed its pipe"
        else:
            how = f"ended with exit status {status}"
            if status < 0:
                how = f"was ended by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                how += " (the system's answer to a lack of memory)"
        return RunError(f"{self.name} {how}{self.last_words()}")

    def last_words(self) -> str:
        """``": "`` and the last line that it printed; empty if there is none."""
        try:
            with (self.folder / _LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = log.read().decode("utf-8", errors="replace").split("\n")
        except FileNotFoundError:  # closed
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[-500:]}" if last else ""


def _end(process: subprocess.Popen[bytes], folder: Path, grace: float) -> None:
    if grace and _signal(process, signal.SIGTERM):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    _signal(process, signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the process group, which outlives its first process, was there to get it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of an ended group
        return False
    return True
