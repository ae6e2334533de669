"""LSQ: clip ranges that are learned with the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor, nn

from qat import grid
from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer, Layout
from qat.fake_quant.function import AsymmetricFakeQuantize, SymmetricFakeQuantize
from qat.observers import Observer
from qat.observers.base import extremes


@dataclass(frozen=True)
class LSQ(FakeQuantizeConfig):
    """Learned step size quantization (arXiv:1902.08153), on ranges instead of steps.

    ``scale = limit / qmax(bits)``, so a schedule can change the bits and keep what was learned.

    Args:
        gradient_scale: multiply range gradients by ``1 / sqrt(k * qmax)`` (section 2.2 of the paper), which keeps
            them in proportion to those of the ``k`` weights that share the range; with two ends ``qmax - qmin`` takes
            the place of ``qmax``.
        learn: False keeps the ranges as the observer set them.
    """

    gradient_scale: bool = True
    learn: bool = True

    def build(self, args: QuantizationArgs, layout: Layout, scale_format: str) -> LSQFakeQuantizer:
        """See :meth:`FakeQuantizeConfig.build`."""
        return LSQFakeQuantizer(self, args, layout, scale_format)


class LSQFakeQuantizer(FakeQuantizer):
    """Fake quantizer with learned ranges: ``limit`` (symmetric) or ``lower`` and ``upper``, [rows, n_groups].

    They are parameters from construction: in the optimizer, in ``state_dict``, resumable. A range of 0 means that
    none was set yet (static activations before calibration).
    """

    def __init__(self, config: LSQ, args: QuantizationArgs, layout: Layout, scale_format: str) -> None:
        super().__init__(config, args, scale_format, layout.narrow_range)
        self.gradient_scale = config.gradient_scale
        self.activation = layout.activation
        for name in ("limit",) if args.symmetric else ("lower", "upper"):
            zeros = torch.zeros(layout.rows, layout.n_groups)
            self.register_parameter(name, nn.Parameter(zeros, requires_grad=config.learn))

    def ranges(self) -> list[nn.Parameter]:
        """See :meth:`FakeQuantizer.ranges`."""
        return list(self.parameters(recurse=False))

    @property
    def has_range(self) -> bool:
        """Whether a range was set for every group or tensor (a group of zeros has range 0 all the same)."""
        return any(bool((parameter != 0).any()) for parameter in self.ranges())

    @torch.no_grad()
    def init_range(self, observer: Observer, tensor: Tensor) -> None:
        """See :meth:`FakeQuantizer.init_range`; ``tensor`` is a weight, or one batch of activations."""
        groups = grid.to_groups(tensor.detach().float(), self.args)
        self.set_range(*observer.range(groups, self.spec))

    @torch.no_grad()
    def set_range(self, lower: Tensor, upper: Tensor) -> None:
        """Copy both ends [rows, n_groups] into the parameters."""
        if self.args.symmetric:
            self.limit.copy_(upper)
        else:
            self.lower.copy_(lower)
            self.upper.copy_(upper)

    def fake_quantize(self, groups: Tensor, mix: Tensor) -> Tensor:
        """See :meth:`FakeQuantizer.fake_quantize`."""
        if self.activation:
            self._observe(groups)
        shared = (self.qmin, self.qmax, mix, self.scale_format, self.gradient_scale)
        if self.args.symmetric:
            return SymmetricFakeQuantize.apply(groups, self.limit, *shared)
        return AsymmetricFakeQuantize.apply(groups, self.lower, self.upper, *shared)

    def scale_and_zero_point(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`FakeQuantizer.scale_and_zero_point`; ``groups`` is not looked at."""
        if self.args.symmetric:
            return grid.symmetric_scale(self.limit, self.qmax, self.scale_format), None
        return grid.asymmetric_scale(self.lower, self.upper, self.qmin, self.qmax, self.scale_format)

    @torch.no_grad()
    def _observe(self, groups: Tensor) -> None:
        """In a ``calibrate`` phase, widen the range of a static activation to what passes by."""
        lower, upper = extremes(groups, self.args.symmetric)
        ends = (
            {"limit": (upper, torch.maximum)}
            if self.args.symmetric
            else {"lower": (lower, torch.minimum), "upper": (upper, torch.maximum)}
        )
        for name, (seen, widen) in ends.items():
            end = getattr(self, name)
            end.copy_(torch.where(self.observe > 0, widen(end, seen), end))
