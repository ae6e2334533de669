"""``attached.py PARENT COMMAND...``: runs a command that does not outlive the process which wanted it.

A process that is killed ends nobody, so this one watches: when its parent is gone, it removes its working folder, which
is a temporary one, and ends its process group: the command, whatever that started, and itself. Else it ends as the
command does. It imports nothing of qat, so that it costs little.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

_WATCH_SECONDS = 0.5


def main(words: list[str]) -> int:
    """Run the command; its exit status."""
    parent, command = int(words[0]), words[1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        # The command gets them too, since the group does. A handler, unlike SIG_IGN, is not inherited.
        signal.signal(number, _nothing)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    status = subprocess.call(command)
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    shutil.rmtree(os.getcwd(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
