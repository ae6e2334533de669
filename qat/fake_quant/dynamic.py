"""Dynamic activations: every token (or tensor) has the scale of its own extremes, in training as in the engine."""

from __future__ import annotations

from dataclasses import dataclass

from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor

from qat import grid
from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer, Layout
from qat.observers import Observer
from qat.observers.base import extremes


@dataclass(frozen=True)
class Dynamic(FakeQuantizeConfig):
    """Used for every input activation that a scheme calls dynamic, whatever quantizes the weights."""

    def build(self, args: QuantizationArgs, layout: Layout, scale_format: str) -> DynamicFakeQuantizer:
        """See :meth:`FakeQuantizeConfig.build`; the scale is never stored, so it stays float32."""
        return DynamicFakeQuantizer(self, args, "fp32")


class DynamicFakeQuantizer(FakeQuantizer):
    """Fake quantizer of a dynamic activation.

    The scale is that of compressed-tensors and torchao, ``absmax / ((qmax - qmin) / 2)`` (127.5 for INT8), so that
    the reloaded model rounds a token to the same codes. vLLM's CUDA kernel divides by 127.
    """

    def init_range(self, observer: Observer, tensor: Tensor) -> None:
        """Nothing to set: the range is that of each token."""

    def scale_and_zero_point(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`FakeQuantizer.scale_and_zero_point`."""
        lower, upper = extremes(groups, self.args.symmetric)
        if self.args.symmetric:
            return self.scale_format.round(upper / ((self.qmax - self.qmin) / 2)), None
        return grid.asymmetric_scale(lower, upper, self.qmin, self.qmax, self.scale_format)
