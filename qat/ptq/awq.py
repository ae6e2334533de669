"""AWQ: scale up the input channels that matter before rounding, and fold the scale into what is before them.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han: "AWQ: Activation-aware Weight Quantization for LLM Compression
and Acceleration", arXiv:2306.00978, section 3.2, equations 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from qat.errors import InputError
from qat.fake_quant import FakeQuantizer
from qat.hosts import Host
from qat.observers import Observer
from qat.ptq.block import Block, is_uncalibrated
from qat.ptq.blockwise import BlockwisePTQ
from qat.ptq.clip import OutputMSE
from qat.ptq.find_folds import find_folds
from qat.ptq.fold import Fold, apply_exact

_COARSE = 12
"""Ranges tried for each value of alpha."""


@dataclass(frozen=True)
class AWQ(BlockwisePTQ):
    """Folds the scale ``s = mean|X| ** alpha`` of the best ``alpha`` in 0 ... 1 into each group that allows it.

    ``alpha`` is the one with the least error of the group's outputs (equation 4, summed over the linears that read one
    tensor), with weights and dynamic activations on the scheme's own grid; ``alpha`` 0 is among them, so a group is not
    worse than without. Which groups allow a scale: :mod:`qat.ptq.find_folds`. A linear without one is only clipped.

    Args:
        observer: sets the ranges of weights outside the blocks, and of all where ``clip`` is off.
        steps: how many values of ``alpha`` are tried.
        clip: search the range of each weight for the least error of its output, for every ``alpha`` (coarsely) and at
            the end: a scale that is best for one rule of ranges need not be so for another.
        tokens: how many of the calibration tokens, evenly spaced, ``alpha`` is searched on.

    Raises:
        InputError: no ``steps`` or no ``tokens``.
    """

    steps: int = 20
    clip: bool = True
    tokens: int = 4096

    def __post_init__(self) -> None:
        for name in ("steps", "tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"ptq.{name} is {getattr(self, name)}; it must be 1 or more")

    def quantize_block(self, block: Block) -> None:
        """See :meth:`BlockwisePTQ.quantize_block`."""
        run = partial(block, block.batches[0])
        found = find_folds(block.module, run)
        folds = [(fold, names) for fold in found.exact if (names := _hosts_of(block, fold))]
        seen = _sampled_inputs(block, [names[0] for _, names in folds], self.tokens)
        for fold, names in folds:
            scale = self.best_scale(fold, [block.hosts[name] for name in names], seen.pop(names[0]))
            apply_exact(fold, scale, block.module, run, found.output)
        self._set_ranges(block)

    def best_scale(self, fold: Fold, hosts: list[Host], x: Tensor) -> Tensor:
        """The scale [size] of the ``alpha`` with the least error.

        Args:
            fold: whose consumers, among others, are ``hosts``.
            hosts: the quantized ones; their ranges are changed.
            x: their input, float [tokens, in].
        """
        magnitude = fold.shared(x.abs().mean(0), "mean")
        observer = None if self.clip else self.observer
        best, least = torch.ones_like(magnitude), float("inf")
        for step in range(self.steps):
            scale = fold.snapped(scale_of(magnitude, step / self.steps))
            error = sum(output_error(host, scale[fold.index], x, observer) for host in hosts)
            if error < least:
                best, least = scale, error
        return best

    def _set_ranges(self, block: Block) -> None:
        """Once all weights are what they will be."""
        firsts = [group[0] for group in block.groups if isinstance(block.hosts[group[0]], nn.Linear)]
        grams = _grams(block, firsts) if self.clip else {}
        for group in block.groups:
            observer = OutputMSE(grams[group[0]]) if group[0] in grams else self.observer
            for name in group:
                block.hosts[name].weight_fake_quantizer.init_range(observer, block.hosts[name].weight)


def scale_of(magnitude: Tensor, alpha: float) -> Tensor:
    """``magnitude ** alpha`` (equation 5), with its smallest and largest number as far from 1; ones for ``alpha`` 0."""
    scale = magnitude.clamp(min=1e-4) ** alpha
    return scale / (scale.amin() * scale.amax()).sqrt()


def output_error(host: Host, scale: Tensor, x: Tensor, observer: Observer | None) -> float:
    """``|Q(W diag(s)) Q(diag(1/s) X) - W X|^2`` (equation 4), on the grid of the host's own quantizers.

    Args:
        host: its weight is [out, in]; the range of its quantizer is set, nothing else is changed.
        scale: [in].
        x: [tokens, in].
        observer: sets the range for the scaled weight; None: a coarse :class:`OutputMSE` search.
    """
    quantizer: FakeQuantizer = host.weight_fake_quantizer
    inputs, activations = x / scale, getattr(host, "activation_fake_quantizer", None)
    if activations is not None and not is_uncalibrated(activations):
        inputs = activations(inputs)
    weight = host.weight * scale
    quantizer.init_range(observer or OutputMSE(inputs.T @ inputs, candidates=_COARSE), weight)
    rounded = quantizer.grid(weight).value()
    return float((inputs @ rounded.T - x @ host.weight.T).square().sum(dtype=torch.float64))


def _hosts_of(block: Block, fold: Fold) -> list[str]:
    """Full names of the quantized linears among the consumers."""
    return [full for name in fold.consumers if (full := f"{block.name}.{name}") in block.hosts]


def _sampled_inputs(block: Block, names: list[str], tokens: int) -> dict[str, Tensor]:
    """Some of the inputs of hosts, each float32 [tokens, in], evenly spaced over every batch."""
    share = -(-tokens // len(block.batches))
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def see(name: str, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        seen[name].append(rows[:: max(1, len(rows) // share)].float())

    block.inputs_of(names, see)
    return {name: torch.cat(rows) for name, rows in seen.items()}


def _grams(block: Block, names: list[str]) -> dict[str, Tensor]:
    """``X^T X``, float32 [in, in], of all that each host multiplies its weight with."""
    grams: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        grams[name] = torch.addmm(grams[name], rows.T, rows) if name in grams else rows.T @ rows

    block.inputs_of(names, see, rounded=True)
    return grams
