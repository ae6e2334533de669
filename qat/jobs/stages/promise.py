"""The promised result: ``expect`` bounds of a recipe, held against ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qat.errors import RunError

# Overrides that leave the result what it is, up to chance.
_HARMLESS = ("recipe", "recipes", "run_dir", "resume", "seed", "logger", "export", "engine", "overwrite", "expect")
_HARMLESS_TRAINER = (
    *("device", "num_threads", "workers"),
    *("save_every", "log_every", "val_every", "val_blocks", "quant_error_every"),
)


def changed(overrides: Sequence[str]) -> list[str]:
    """The overrides after which a recipe's promise does not hold, unless new bounds are given with them.

    Example:
        >>> changed(["recipe=demo/w4a16_lsq", "seed=1", "trainer.max_steps=5"])
        ['trainer.max_steps=5']
    """
    keys = {override: override.partition("=")[0].lstrip("+~").partition("@")[0] for override in overrides}
    if any(key.split(".")[0] == "expect" for key in keys.values()):
        return []
    return [override for override, key in keys.items() if not _is_harmless(key)]


def _is_harmless(key: str) -> bool:
    first, _, rest = key.partition(".")
    return first in _HARMLESS or (first == "trainer" and rest in _HARMLESS_TRAINER)


def check(bounds: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Compare metrics with bounds of the same nesting.

    Args:
        bounds: ends in ``{"min": number}`` and ``{"max": number}``.
        metrics: what ``metrics.json`` holds.

    Raises:
        RunError: naming every bound that is missed, with the value and the bound.
    """
    missed = list(_missed("", bounds, metrics))
    if missed:
        raise RunError(f"the result is not what the recipe promises: {'; '.join(missed)}")


def _missed(key: str, bounds: dict[str, Any], value: Any) -> Iterator[str]:
    for name, bound in bounds.items():
        if name not in ("min", "max"):
            inner = value.get(name) if isinstance(value, dict) else None
            yield from _missed(f"{key}.{name}".lstrip("."), bound, inner)
        elif value is None:
            yield f"{key} was not measured, promised is {_sign(name)} {bound:g}"
        elif value < bound if name == "min" else value > bound:
            yield f"{key} is {value:.4g}, promised is {_sign(name)} {bound:g}"


def _sign(name: str) -> str:
    return "at least" if name == "min" else "at most"
