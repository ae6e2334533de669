"""Errors that a user can act on: one line, no traceback, and an exit code."""

from __future__ import annotations

import difflib
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
    """The input was fine and the run failed (NaN loss, no disk space). Exit code 1."""

    exit_code = 1


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
