"""Dry runs: each call that would be sent is one line of JSON on standard output, where nothing else is printed then."""

from __future__ import annotations

import sys
from threading import Lock

_ALONE = Lock()


def rehearse(call: str) -> None:
    """Print ``call``, which is one line of JSON; the lines of two threads do not mix."""
    with _ALONE:
        sys.stdout.write(call + "\n")
        sys.stdout.flush()
