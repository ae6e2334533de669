"""Proof that what was written is what was trained: codes, zero points and scales, bit for bit, and logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qat.checkpoint import QuantizedCheckpoint, QuantizedWeight, ReadModule
from qat.evaluate.forward import Forward, evaluating, outputs


@dataclass(frozen=True)
class Parity:
    """What differs between a checkpoint and a re-read export; all 0 and empty when they are the same.

    Attributes:
        tensors: quantized tensors of the checkpoint.
        mismatched_codes: integers that differ.
        mismatched_zero_points: zero points of weights and static activations that differ.
        mismatched_scales: scales of both that differ in their bits; all of a tensor's where the dtype differs.
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


def parity(checkpoint: QuantizedCheckpoint, read: Mapping[str, ReadModule], activations: bool = True) -> Parity:
    """Compare the modules of ``checkpoint`` with those that an exporter re-read, by name.

    Args:
        checkpoint: what was frozen.
        read: what :meth:`~qat.export.base.Exporter.read` returned.
        activations: False for a format that holds weights only.
    """
    wanted = checkpoint.weights
    names = sorted(wanted.keys() | read.keys())
    pairs = [(_numbers(wanted.get(name), activations), _numbers(read.get(name), activations)) for name in names]

    def total(*parts: str) -> int:
        return sum(_differing(a.get(part), b.get(part)) for a, b in pairs for part in parts)

    return Parity(
        tensors=len(wanted),
        mismatched_codes=total("codes"),
        mismatched_zero_points=total("zero_point", "input_zero_point"),
        mismatched_scales=total("scale", "input_scale"),
        missing=tuple(sorted(wanted.keys() - read.keys())),
        unexpected=tuple(sorted(read.keys() - wanted.keys())),
    )


def _numbers(module: QuantizedWeight | ReadModule | None, activations: bool) -> dict[str, Tensor | None]:
    if module is None:
        return {}
    grid = module.grid
    numbers = {"codes": grid.codes, "scale": grid.scale, "zero_point": grid.zero_point}
    if activations:
        numbers |= {"input_scale": module.input_scale, "input_zero_point": module.input_zero_point}
    return numbers


def _differing(a: Tensor | None, b: Tensor | None) -> int:
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
