"""``pushed.json``: what a push made in the cloud, whole on disk at any moment, and held by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qat.errors import InputError

PUSHED = "pushed.json"
"""Beside what was pushed."""
_TEMPORARY, _LOCK = ".tmp", ".pushed.lock"
LOCAL = frozenset({_LOCK} | {name + ending for name in (PUSHED, "preflight.json") for ending in ("", _TEMPORARY)})
"""Files of ours at the top of a folder, which are not uploaded."""


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    temporary = path.with_name(path.name + _TEMPORARY)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def alone(folder: Path, dry_run: bool = False) -> Iterator[None]:
    """Hold ``folder`` against other pushes of this machine; a dry run changes nothing, so it needs no hold.

    Raises:
        InputError: another one holds it, or there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; prepare one first: qat deploy target=<name> run=<run folder>")
    if dry_run:
        yield
        return
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder} is being pushed or deleted by another process; wait for it") from None
    try:
        yield
    finally:
        (folder / _LOCK).unlink(missing_ok=True)  # while it is held: whoever opened it before gets no hold of it
        lock.release()
