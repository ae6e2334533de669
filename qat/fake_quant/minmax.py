"""Min-max: the range of a weight follows the weight, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor

from qat import grid
from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer, Layout
from qat.fake_quant.lsq import LSQ, LSQFakeQuantizer
from qat.observers import Observer
from qat.observers.base import extremes


@dataclass(frozen=True)
class MinMax(FakeQuantizeConfig):
    """Plain quantization-aware training (arXiv:1712.05877): nothing clipped, nothing learned but the weights."""

    def build(self, args: QuantizationArgs, layout: Layout, scale_format: str) -> FakeQuantizer:
        """See :meth:`FakeQuantizeConfig.build`; a static activation keeps its calibrated range."""
        if layout.activation:
            return LSQFakeQuantizer(LSQ(learn=False), args, layout, scale_format)
        return MinMaxFakeQuantizer(self, args, scale_format, layout.narrow_range)


class MinMaxFakeQuantizer(FakeQuantizer):
    """Fake quantizer of a weight whose range is always the weight's own minimum and maximum."""

    def init_range(self, observer: Observer, tensor: Tensor) -> None:
        """Nothing to set: the range is computed from the weight in every forward pass."""

    def scale_and_zero_point(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`FakeQuantizer.scale_and_zero_point`."""
        lower, upper = extremes(groups, self.args.symmetric)
        if self.args.symmetric:
            return grid.symmetric_scale(upper, self.qmax, self.scale_format), None
        return grid.asymmetric_scale(lower, upper, self.qmin, self.qmax, self.scale_format)
