"""The words of a command line that gives a target's options again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

_PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_/][\w./:@+-]*", re.IGNORECASE)
"""Text that Hydra reads as itself; any other, such as an account's digits, is quoted."""


def word(name: str, value: object) -> str:
    """``name=value`` as a shell and then Hydra read it.

    Example:
        >>> word("run", "outputs/a"), word("target.account", "123456789012"), word("target.exact", True)
        ('run=outputs/a', '\\'target.account="123456789012"\\'', 'target.exact=true')
    """
    return shlex.quote(f"{name}={_text(value)}")


def given(target: Any) -> tuple[str, ...]:
    """The options of a dataclass that are not as they are by default, each as a word."""
    return tuple(_given(target))


def _given(target: Any) -> Iterator[str]:
    for field in fields(target):
        value = getattr(target, field.name)
        if value == _default(field):
            continue
        if isinstance(value, dict):  # its keys are not in the config, so each is added
            yield from (word(f"+target.{field.name}.{key}", held) for key, held in value.items())
        else:
            yield word(f"target.{field.name}", value)


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(item) for item in value)}]"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'
