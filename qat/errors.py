"""Errors that a user can act on: one line, no traceback, and an exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class QatError(Exception):
    """Base of every error that the command line prints as one line.

    The message gives the value, what is allowed and the fix.
    """

    exit_code = 1


class InputError(QatError, ValueError):
    """The user's input (recipe, option, file) cannot be used. Exit code 2."""

    exit_code = 2


class RunError(QatError, RuntimeError):
    """The input was fine and the run failed (a loss that is NaN). Exit code 1."""

    exit_code = 1


class DiskFull(RunError):
    """The disk has no room for the result: for the user to put right, as bad input is. Exit code 2."""

    exit_code = 2


class Interrupted(RunError):
    """The user stopped the run. Exit code 130, as shells use for SIGINT."""

    exit_code = 130


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that a disk or a quota is full.

    safetensors writes from Rust and reports it in the text of an error of its own.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    return f"os error {errno.ENOSPC}" in text or f"os error {errno.EDQUOT}" in text


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed names, or ``""``.

    Example:
        >>> nearest("w4a16_g23", ["w4a16_g32", "w8a8"])
        "; did you mean 'w4a16_g32'?"
    """
    close = difflib.get_close_matches(value, sorted(allowed), n=3, cutoff=0.5)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
