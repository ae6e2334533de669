"""torchao's own quantization-aware training: the opponent to measure against, in torchao's own arithmetic.

The forward and backward pass are those of :class:`torchao.quantization.qat.IntxFakeQuantizer`, built from the
``IntxFakeQuantizeConfig`` that a user of ``quantize_(model, QATConfig(...))`` would write: weights symmetric per
channel or group with min-max ranges, int8 activations asymmetric per token. Around it is only what lets the same
schedule, freeze and exports work. torchao multiplies by ``1 / scale`` where :mod:`qat.grid` divides by ``scale``, so
the frozen codes are torchao's too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from torch import Tensor
from torchao.quantization.granularity import Granularity, PerAxis, PerGroup, PerToken
from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer
from torchao.quantization.quant_primitives import MappingType, quantize_affine

from qat import grid
from qat.errors import InputError
from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer, Layout
from qat.fake_quant.function import blend
from qat.grid import Grid
from qat.observers import Observer


@dataclass(frozen=True)
class TorchAO(FakeQuantizeConfig):
    """torchao's quantizers of weights and of dynamic activations."""

    builds_dynamic: ClassVar[bool] = True

    def build(self, args: QuantizationArgs, layout: Layout, scale_format: str) -> FakeQuantizer:
        """See :meth:`FakeQuantizeConfig.build`.

        Raises:
            InputError: a grid that torchao cannot train, with what to change.
        """
        if layout.activation:
            return TorchAOFakeQuantizer(self, args, "fp32", activation_config(args))
        return TorchAOFakeQuantizer(self, args, scale_format, weight_config(args, scale_format))


def weight_config(args: QuantizationArgs, scale_format: str) -> IntxFakeQuantizeConfig:
    """torchao's options of a weight.

    Raises:
        InputError: an asymmetric grid, one scale for a whole tensor, or scales that are not float32.
    """
    if scale_format != "fp32":
        raise InputError(
            f"fake_quantizer=torchao trains with float32 scales, so scale_format={scale_format} would store others; "
            "set scheme.scale_format=fp32"
        )
    if not args.symmetric:
        raise InputError("fake_quantizer=torchao is here for symmetric weights; set symmetric=true, or pick another")
    granularity: Granularity
    if args.strategy == QuantizationStrategy.CHANNEL:
        granularity = PerAxis(0)
    elif args.strategy == QuantizationStrategy.GROUP:
        granularity = PerGroup(args.group_size)
    else:
        raise InputError(f"fake_quantizer=torchao has no strategy={args.strategy} for weights; set channel or group")
    return IntxFakeQuantizeConfig(_dtype(args.num_bits), granularity, MappingType.SYMMETRIC)


def activation_config(args: QuantizationArgs) -> IntxFakeQuantizeConfig:
    """torchao's options of an activation.

    Raises:
        InputError: a static or a symmetric grid, or another strategy than one scale a token.
    """
    if not args.dynamic or args.strategy != QuantizationStrategy.TOKEN:
        raise InputError("fake_quantizer=torchao has dynamic activations per token only; pick another fake_quantizer")
    if args.symmetric:
        raise InputError(
            "fake_quantizer=torchao has no symmetric activations per token (torchao raises NotImplementedError); set "
            "scheme.config_groups.<group>.input_activations.symmetric=false"
        )
    return IntxFakeQuantizeConfig(_dtype(args.num_bits), PerToken(), MappingType.ASYMMETRIC)


def _dtype(bits: int) -> torch.dtype:
    found: torch.dtype = getattr(torch, f"int{bits}")
    return found


class TorchAOFakeQuantizer(FakeQuantizer):
    """torchao's fake quantizer, under a schedule.

    Args:
        config: the options it was built from.
        args: bits, symmetry and strategy of the tensor.
        scale_format: ``fp32``.
        options: torchao's own; their bits follow the schedule.
    """

    def __init__(
        self, config: TorchAO, args: QuantizationArgs, scale_format: str, options: IntxFakeQuantizeConfig
    ) -> None:
        super().__init__(config, args, scale_format)
        self.torchao = IntxFakeQuantizer(options)

    def init_range(self, observer: Observer, tensor: Tensor) -> None:
        """Nothing to set: torchao computes the range in every forward pass."""

    def set_precision(self, bits: int, enabled: bool, mix: float, observe: bool) -> None:
        """See :meth:`FakeQuantizer.set_precision`; torchao has its bits as the dtype of its options."""
        super().set_precision(bits, enabled, mix, observe)
        self.torchao.config.dtype = _dtype(bits)

    def forward(self, x: Tensor) -> Tensor:
        """torchao's output and torchao's gradient, bit for bit, when the quantizer is on and unmixed."""
        return blend(x, self.torchao(x), self.enabled * self.mix)

    @torch.no_grad()
    def grid(self, x: Tensor) -> Grid:
        """The codes and scales that torchao's forward pass rounds the weight ``x`` [out, in] to."""
        self.torchao(x.detach())
        scale, zero_point = self.torchao.scale, self.torchao.zero_point
        block = (1, x.shape[1] // scale.shape[1])
        low, high = grid.qrange(self.args.num_bits)
        codes = quantize_affine(x.detach(), block, scale, zero_point, torch.int8, low, high)
        return Grid(codes, scale)

    def scale_and_zero_point(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`FakeQuantizer.scale_and_zero_point`; of weights, whose zero point is none."""
        rows, n_groups, size = groups.shape
        self.torchao(groups.reshape(rows, n_groups * size))
        return self.torchao.scale, None
