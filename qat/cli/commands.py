"""The commands: one module of :mod:`qat.jobs` each, found by its name."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType

from qat import jobs
from qat.errors import InputError, nearest

PLAIN = ("bench",)
"""Commands that work on no recipe: their ``main(words)`` takes what was typed behind them."""


def commands() -> dict[str, str]:
    """Every command with the first line of its module's docstring; nothing is imported."""
    names = [module.name for module in pkgutil.iter_modules(jobs.__path__) if not module.ispkg]
    return {name: _summary(f"{jobs.__name__}.{name}") for name in names}


def load(command: str) -> ModuleType:
    """Import a command's module.

    It has ``main(run, folder)`` and ``ACCEPTS``, which says which of the keys that few commands have a use for it
    takes, such as ``resume=`` and ``run=``.

    Raises:
        InputError: for an unknown command, or one that needs a package that is not there.
    """
    check(command)
    try:
        return importlib.import_module(f"{jobs.__name__}.{command}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "qat":
            raise
        raise InputError(f"qat {command} needs the package {error.name}, which is not installed; install it") from error


def check(command: str) -> None:
    """Raise InputError unless ``command`` exists."""
    known = commands()
    if command not in known:
        hint = nearest(command, known) or ";"
        raise InputError(f"there is no command '{command}'{hint} commands: {', '.join(known)}")


def check_accepts(command: str, given: Mapping[str, object]) -> None:
    """Refuse ``resume``, ``run``, ``overwrite``, ``stream``, ... where the command has no use for it.

    Args:
        command: name of the command.
        given: these keys with the values given for them, if any.

    Raises:
        InputError: naming the commands that take it.
    """
    for key, value in given.items():
        if value is not None and key not in load(command).ACCEPTS:
            takers = [name for name in commands() if key in load(name).ACCEPTS]
            raise InputError(f"{key}={value} is not for qat {command}, but for qat {', '.join(takers)}")


def _summary(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    with open(spec.origin, encoding="utf-8") as source:
        docstring = ast.get_docstring(ast.parse(source.read())) or ""
    return docstring.partition("\n")[0]
