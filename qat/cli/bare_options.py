"""An option without its group, ``port=1``, is refused with the word that was meant: ``gateway.port=1``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import yaml
from hydra.core.override_parser.types import Override

from qat.config.compose import SEVERAL, choices, groups
from qat.config.hosting import schema
from qat.config.schema import RunConfig
from qat.errors import InputError


def refuse_bare_options(command: str, overrides: Sequence[Override]) -> None:
    """Return unless an override's key is an option of a group alone.

    Raises:
        InputError: with what to write instead.
    """
    keys = {field.name for field in fields(schema(command) or RunConfig)}
    for override in overrides:
        key = override.key_or_group
        if "." in key or "/" in key or key in {*keys, *groups(), "hydra"} or override.is_delete():
            continue
        if found := [*dict.fromkeys(_places(key, [group for group in groups() if group in keys], overrides))]:
            value = str(override.input_line).partition("=")[2]
            meant = " or ".join(f"{place}={value}" for place in found[:3])
            raise InputError(f"there is no option '{key}' by itself; did you mean {meant}?")


def _places(key: str, among: Sequence[str], overrides: Sequence[Override]) -> Iterator[str]:
    """Where the choices of the groups ``among`` have ``key``; of those that are picked, if any is named."""
    picked = {override.key_or_group: override.value() for override in overrides if not override.is_delete()}
    for group in among:
        chosen = picked.get(group)
        for name, path in choices(group).items():
            if chosen is not None and name not in (chosen if isinstance(chosen, list) else [chosen]):
                continue
            if key in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) and key != "_target_":
                yield f"{group}.{name}.{key}" if group in SEVERAL else f"{group}.{key}"
