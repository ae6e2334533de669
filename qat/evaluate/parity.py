"""Proof that what was written is what was trained: codes, zero points and scales, bit for bit, and logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qat.checkpoint import QuantizedCheckpoint
from qat.evaluate.forward import Forward, evaluating, outputs
from qat.grid import Grid
from qat.quantized import KVScales, QuantizedWeight, ReadModule


@dataclass(frozen=True)
class Parity:
    """What differs between a checkpoint and a re-read export; all 0 and empty when they are the same.

    Attributes:
        tensors: quantized tensors of the checkpoint.
        mismatched_codes: integers that differ; of a format without integers, values that do.
        mismatched_zero_points: zero points of weights and static activations that differ.
        mismatched_scales: scales of both, and of static keys and values, that differ in their bits; all of a tensor's
            where the dtype differs.
        missing: modules that the export lacks; every number of theirs counts as mismatched.
        unexpected: modules that only the export has; every number of theirs counts too.
    """

    tensors: int
    mismatched_codes: int
    mismatched_zero_points: int
    mismatched_scales: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether nothing differs."""
        return not (
            self.mismatched_codes
            or self.mismatched_zero_points
            or self.mismatched_scales
            or self.missing
            or self.unexpected
        )


def parity(
    checkpoint: QuantizedCheckpoint,
    read: Mapping[str, ReadModule],
    activations: bool = True,
    caches: Mapping[str, KVScales] | None = None,
) -> Parity:
    """Compare the modules of ``checkpoint`` with those that an exporter re-read, by name.

    Args:
        checkpoint: what was frozen.
        read: what :meth:`~qat.export.base.Exporter.read` returned.
        activations: False for a format that holds weights only.
        caches: what :meth:`~qat.export.base.Exporter.read_kv_cache` returned; compared where activations are.
    """
    found = caches or {}
    wanted = checkpoint.weights
    totals = dict.fromkeys(("codes", "zero_point", "scale"), 0)
    for name in sorted(wanted.keys() | read.keys()):
        a, b = _numbers(wanted, read, name, activations)
        for part in a.keys() | b.keys():
            totals[part.removeprefix("input_")] += differing(a.get(part), b.get(part))
    kept = checkpoint.kv_scales if activations else {}
    for name in kept.keys() | found.keys():
        ours, theirs = kept.get(name), found.get(name)
        for part in ("key", "value"):
            totals["scale"] += differing(getattr(ours, part, None), getattr(theirs, part, None))
    return Parity(
        tensors=len(wanted),
        mismatched_codes=totals["codes"],
        mismatched_zero_points=totals["zero_point"],
        mismatched_scales=totals["scale"],
        missing=tuple(sorted((wanted.keys() - read.keys()) | (kept.keys() - found.keys()))),
        unexpected=tuple(sorted((read.keys() - wanted.keys()) | (found.keys() - kept.keys()))),
    )


_Numbers = dict[str, Tensor | None]


def _numbers(
    wanted: Mapping[str, QuantizedWeight], read: Mapping[str, ReadModule], name: str, activations: bool
) -> tuple[_Numbers, _Numbers]:
    """What is to be compared of one module, both sides; of a file without integers their values are."""
    entry, module = wanted.get(name), read.get(name)
    sides: tuple[_Numbers, _Numbers] = ({}, {})
    weights = (None if entry is None else entry.grid, None if module is None else module.weight)
    values_only = isinstance(weights[1], Tensor)
    for numbers, weight, owner in zip(sides, weights, (entry, module), strict=True):
        if isinstance(weight, Grid):
            if values_only:
                numbers["codes"] = weight.value()
            else:
                numbers |= {"codes": weight.codes, "scale": weight.scale, "zero_point": weight.zero_point}
        elif weight is not None:
            numbers["codes"] = weight.float()
        if owner is not None and activations:
            numbers |= {"input_scale": owner.input_scale, "input_zero_point": owner.input_zero_point}
    return sides


def differing(a: Tensor | None, b: Tensor | None) -> int:
    """How many numbers differ in their bits; all of them where shape or dtype differ or one is missing."""
    if a is None or b is None:
        return sum(tensor.numel() for tensor in (a, b) if tensor is not None)
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.numel(), b.numel())
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return int((a.contiguous().view(bits) != b.contiguous().view(bits).to(a.device)).sum())


def max_logit_difference(model_a: nn.Module | Forward, model_b: nn.Module | Forward, tokens: Tensor) -> float:
    """Largest absolute difference of the two models' logits (hidden states of an encoder) in float32.

    Args:
        model_a: first model.
        model_b: second model.
        tokens: int64[batch, length].

    Returns:
        The difference; infinite where one of them is not finite.
    """
    with evaluating(model_a, model_b):
        a = outputs(model_a, tokens).float()
        b = outputs(model_b, tokens).float().to(a.device)
        difference = (a - b).abs().max().item()
    return difference if math.isfinite(difference) else math.inf
