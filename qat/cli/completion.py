"""Tab completion: Hydra completes groups, choices and keys; the command before them is completed here."""

from __future__ import annotations

import os
from collections.abc import Sequence

from qat.cli.commands import commands

FLAGS = ("-sc", "--shell-completion")


def is_request(arguments: Sequence[str]) -> bool:
    """Whether the shell (or the user, to install it) asks for completion.

    ``eval "$(qat -sc install=bash)"`` installs it.
    """
    return any(flag in arguments for flag in FLAGS)


def command() -> str:
    """The command in the line that is being typed; ``""`` before there is one."""
    words = os.environ.get("COMP_LINE", "").split()
    return words[1] if len(words) > 1 else ""


def complete_command() -> list[str] | None:
    """The commands that fit when the command itself is being typed.

    Otherwise None, and ``COMP_LINE`` is left without the command, as Hydra wants it.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if not words:
        return None
    if len(words) == 1 or (len(words) == 2 and not line[-1].isspace()):
        prefix = words[1] if len(words) == 2 else ""
        return [command for command in commands() if command.startswith(prefix)]
    os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
    return None
