"""Relative paths in a run's config, as they must be recorded: the run may be taken up from another folder."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

_KEYS = {"model": ("path", "tokenizer"), "data": ("path", "train", "validation", "test")}
_TOP = ("recipes",)


def absolute(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` in which paths and globs that find something from the current folder are absolute.

    Whatever else may stand in their place, such as a hub id, stays as it is.
    """
    config = deepcopy(config)
    for node, key, _ in _places(config):
        value = node[key]
        node[key] = [_absolute(item) for item in value] if isinstance(value, list) else _absolute(value)
    return config


def overrides(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What to type to get from ``before`` to ``after``, which is :func:`absolute` of it.

    Example:
        >>> overrides({"model": {"path": "mine"}}, {"model": {"path": "/home/me/mine"}})
        ['model.path="/home/me/mine"']
    """
    old = {place: node[key] for node, key, place in _places(before)}
    new = {place: node[key] for node, key, place in _places(after)}
    return [f"{place}={_quoted(value)}" for place, value in new.items() if value != old[place]]


def _places(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Mapping, key and dotted name of every value that may name local files."""
    yield from ((config, key, key) for key in _TOP if key in config)
    for group, keys in _KEYS.items():
        node = config.get(group)
        if isinstance(node, dict):
            yield from ((node, key, f"{group}.{key}") for key in keys if key in node)


def _absolute(value: Any) -> Any:
    if not isinstance(value, str) or not value or Path(value).is_absolute():
        return value
    here = Path.cwd()
    if Path(value).exists():
        return str(here / value)
    if glob.glob(value, recursive=True):
        return str(Path(glob.escape(str(here))) / value)  # a bracket in the folder's own name is none of the glob's
    return value


def _quoted(value: Any) -> str:
    """``value`` as Hydra reads it back."""
    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    return '"{}"'.format(value.replace('"', '\\"'))
