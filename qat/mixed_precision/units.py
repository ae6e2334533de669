"""Which modules share one decision about their width."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import nn

from qat.evaluate.forward import evaluating
from qat.hosts import block_index, hosts

Granularity = Literal["layer", "shared_input", "block"]


@dataclass(frozen=True)
class Unit:
    """Modules that get one width.

    Attributes:
        name: the module's, or what the modules have in common.
        modules: full names in model order; those after the first may be tied to an earlier one.
    """

    name: str
    modules: tuple[str, ...]


def units(model: nn.Module, granularity: Granularity, batch: dict[str, Any]) -> list[Unit]:
    """Split the quantized modules of a prepared model into decisions, in model order.

    ``layer``: every module decides for itself. ``shared_input``: modules that read the same tensor are one (query, key
    and value; gate and up), as engines that fuse them into one matrix need it. ``block``: a whole transformer block is
    one. Modules whose weights are tied are always one.

    Args:
        batch: keyword arguments of ``model``, which ``shared_input`` runs once to see who reads what.
    """
    prepared = hosts(model)
    keys: dict[str, object] = {name: name for name in prepared}
    if granularity == "shared_input":
        keys |= _readers(model, batch)
    elif granularity == "block":
        keys = {name: name if (index := block_index(name)) is None else index for name in prepared}
    owners: dict[int, str] = {}
    groups: dict[object, list[str]] = {}
    for name, host in prepared.items():
        groups.setdefault(keys[owners.setdefault(id(host.weight), name)], []).append(name)
    return [Unit(_name(names), tuple(names)) for names in groups.values()]


def _readers(model: nn.Module, batch: dict[str, Any]) -> dict[str, object]:
    """For every linear module the first one that reads the same tensor."""
    seen: list[tuple[str, torch.Tensor]] = []

    def look(name: str) -> Any:
        return lambda _module, inputs: seen.append((name, inputs[0]))

    linear = {name: host for name, host in hosts(model).items() if not isinstance(host, nn.Embedding)}
    handles = [host.register_forward_pre_hook(look(name)) for name, host in linear.items()]
    try:
        with evaluating(model):
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    first: dict[int, str] = {}  # by id: `seen` keeps every tensor alive, so no two have the same
    return {name: first.setdefault(id(tensor), name) for name, tensor in seen}


def _name(names: list[str]) -> str:
    """``model.layers.0.self_attn.q_proj+k_proj``, or ``model.layers.0`` where that says it all."""
    if len(names) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    same = takewhile(lambda at_one_place: len({*at_one_place}) == 1, zip(*parts, strict=False))
    common = [part for part, *_ in same]
    rest = [".".join(part[len(common) :]) for part in parts]
    if all(block_index(name) is not None for name in names) and any("." in tail for tail in rest):
        return ".".join(common)
    return ".".join([*common, "+".join(rest)])
