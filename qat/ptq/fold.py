"""Scales that cost nothing: multiply the input channels of some linears, divide what produces those channels.

    producer(x) / s  ->  (W * s) @ .        is        producer(x)  ->  W @ .

AWQ (arXiv:2306.00978) and SmoothQuant (arXiv:2211.10438) move the difficulty of a layer about with such a scale. Which
ones a block allows: :mod:`qat.ptq.find_folds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qat.fake_quant import FakeQuantizer

Run = Callable[[], Tensor]
"""Runs a block on one batch; its output float [batch, tokens, hidden]."""

EXACT = 1e-5
"""Largest relative change of a block's output that is rounding: float32 has 24 bits, and a block sums long rows."""
_SIGNIFICAND = 256.0


@dataclass(frozen=True)
class Fold:
    """A group of linears whose input channels can be scaled, and what divides by the scale in return.

    Attributes:
        consumers: the linears that read the tensor, by their names in the block, quantized or not.
        producer: a norm, or a linear, and its name.
        index: int64 [in]: which number of the scale a channel has; channels with one number share a producer row.
        size: how many numbers a scale has. They belong to the last ``size`` rows of the producer, so that the value
            part of a fused ``qkv`` linear can be scaled without the rest.
        offset: what the norm adds to its weight before use: 1 for Gemma's, else 0.
    """

    consumers: dict[str, nn.Linear]
    producer: nn.Module
    producer_name: str
    index: Tensor
    size: int
    offset: float = 0.0

    @property
    def name(self) -> str:
        """E.g. ``input_layernorm -> self_attn.q_proj, self_attn.k_proj``."""
        return f"{self.producer_name} -> {', '.join(self.consumers)}"

    def shared(self, channels: Tensor, reduce: str) -> Tensor:
        """Join a statistic of the channels [in] into one of the scale's numbers [size]: ``amax`` or ``mean``."""
        joined = torch.zeros(self.size, dtype=channels.dtype, device=channels.device)
        return joined.scatter_reduce(0, self.index, channels, reduce, include_self=False)

    def snapped(self, scale: Tensor) -> Tensor:
        """The scale next to ``scale`` with which a folded norm weight has 8 significant bits.

        Such a weight is the same in bfloat16, float16 and float32, so storing the norm in 16 bits, as most models do,
        moves nothing; the scale follows the rounded weight instead. A weight of 0 keeps its scale.
        """
        if isinstance(self.producer, nn.Linear):
            return scale
        weight = self.producer.get_parameter("weight").detach()
        fraction, exponent = torch.frexp(((weight + self.offset) / scale - self.offset).float())
        rounded = torch.ldexp(torch.round(fraction * _SIGNIFICAND) / _SIGNIFICAND, exponent) + self.offset
        snapped = (weight + self.offset) / rounded
        return torch.where(torch.isfinite(snapped) & (snapped > 0), snapped, scale)

    @torch.no_grad()
    def apply(self, scale: Tensor) -> None:
        """Multiply the consumers' columns by ``scale`` [size], positive, and divide the producer's rows by it."""
        for linear in self.consumers.values():
            linear.weight.mul_(scale[self.index])
        for parameter, offset in self._divided():
            rows = parameter[-self.size :]
            shape = (-1,) + (1,) * (parameter.ndim - 1)
            rows.copy_((rows + offset) / scale.reshape(shape) - offset)

    @contextmanager
    def applied(self, scale: Tensor) -> Iterator[None]:
        """:meth:`apply`, with every bit put back afterwards."""
        changed = [linear.weight for linear in self.consumers.values()] + [p for p, _ in self._divided()]
        before = [parameter.detach().clone() for parameter in changed]
        try:
            self.apply(scale)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(changed, before, strict=True):
                    parameter.copy_(value)

    def _divided(self) -> Iterator[tuple[nn.Parameter, float]]:
        yield self.producer.get_parameter("weight"), self.offset
        if getattr(self.producer, "bias", None) is not None:
            yield self.producer.get_parameter("bias"), 0.0

    def is_exact(self, scale: Tensor, run: Run, before: Tensor) -> bool:
        """Whether the block's output stays ``before``, up to rounding; run it in float, see :func:`floating`."""
        with self.applied(scale):
            return bool((run() - before).norm() <= EXACT * before.norm())


@contextmanager
def floating(module: nn.Module) -> Iterator[None]:
    """Every fake quantizer of ``module`` off inside, as before afterwards."""
    found = [part for part in module.modules() if isinstance(part, FakeQuantizer)]
    before = [quantizer.enabled.clone() for quantizer in found]
    try:
        for quantizer in found:
            quantizer.enabled.zero_()
        yield
    finally:
        for quantizer, value in zip(found, before, strict=True):
            quantizer.enabled.copy_(value)


def apply_exact(fold: Fold, scale: Tensor, module: nn.Module, run: Run, before: Tensor) -> bool:
    """Apply ``scale`` if the block's float output stays ``before``; returns whether it did.

    A structure that :func:`find_folds` found carries every scale, but numbers of very different sizes may lose digits.
    """
    with floating(module):
        if not fold.is_exact(scale, run, before):
            return False
    fold.apply(scale)
    return True
