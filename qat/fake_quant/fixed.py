"""A grid as it was read from a checkpoint: its scale is given, not derived from a range."""

from __future__ import annotations

from dataclasses import dataclass

from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor

from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer, Layout
from qat.observers import Observer


@dataclass(frozen=True)
class Fixed(FakeQuantizeConfig):
    """The stored grid of a static activation.

    Args:
        scale: float32 [1].
        zero_point: int8 [1], or None for a symmetric grid.
    """

    scale: Tensor
    zero_point: Tensor | None = None

    def build(self, args: QuantizationArgs, layout: Layout, scale_format: str) -> FixedFakeQuantizer:
        """See :meth:`FakeQuantizeConfig.build`; the scale is used as it is."""
        return FixedFakeQuantizer(self, args, "fp32")


class FixedFakeQuantizer(FakeQuantizer):
    """Fake quantizer that restores a checkpoint: nothing is learned or observed."""

    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, config: Fixed, args: QuantizationArgs, scale_format: str) -> None:
        super().__init__(config, args, scale_format)
        zero_point = None if config.zero_point is None else config.zero_point.float().reshape(1, 1)
        self.register_buffer("scale", config.scale.float().reshape(1, 1), persistent=False)
        self.register_buffer("zero_point", zero_point, persistent=False)

    def init_range(self, observer: Observer, tensor: Tensor) -> None:
        """Nothing to set: the scale is the stored one."""

    def scale_and_zero_point(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`FakeQuantizer.scale_and_zero_point`."""
        return self.scale, self.zero_point
