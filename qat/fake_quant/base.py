"""What every fake quantizer shares: the buffers that a schedule writes, and the way to its grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor, nn
from torchao.quantization.qat import FakeQuantizerBase
from torchao.quantization.qat.fake_quantize_config import FakeQuantizeConfigBase

from qat import grid
from qat.fake_quant.function import blend
from qat.grid import Grid
from qat.observers import GridSpec, Observer


@dataclass(frozen=True)
class Layout:
    """What a quantizer is for.

    Attributes:
        rows: of the scales, ``[rows, n_groups]``.
        n_groups: see ``rows``.
        activation: whether it is an activation.
        narrow_range: whether the lowest code is left out, see :func:`qat.grid.qrange`.
    """

    rows: int
    n_groups: int
    activation: bool = False
    narrow_range: bool = False


class FakeQuantizeConfig(FakeQuantizeConfigBase):  # type: ignore[misc]
    """Options of a fake quantizer, and how to build one; ``configs/fake_quantizer/*.yaml`` point here.

    Attributes:
        builds_dynamic: whether it has a quantizer of its own for dynamic activations; others share one.
    """

    builds_dynamic: ClassVar[bool] = False

    @abstractmethod
    def build(self, args: QuantizationArgs, layout: Layout, scale_format: str) -> FakeQuantizer:
        """Make the module for a tensor quantized as ``args`` say."""


class FakeQuantizer(FakeQuantizerBase, ABC):  # type: ignore[misc]
    """Rounds a tensor onto its grid in the forward pass.

    What a precision schedule changes lies in float32 scalar buffers, never in Python flags that ``torch.compile``
    would fold: ``qmin``, ``qmax`` (the bits), ``enabled`` (0 or 1), ``mix`` (share of the quantized value) and
    ``observe`` (1: a static activation widens its range). They are derived from the step, so they are not saved.

    Args:
        config: the options it was built from.
        args: bits, symmetry and strategy of the tensor.
        scale_format: see :func:`qat.grid.scale_format`.
        narrow_range: see :class:`Layout`; whatever bits a schedule sets, it stays.
    """

    qmin: Tensor
    qmax: Tensor
    enabled: Tensor
    mix: Tensor
    observe: Tensor

    def __init__(
        self, config: FakeQuantizeConfig, args: QuantizationArgs, scale_format: str, narrow_range: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.args = args
        self.scale_format = grid.scale_format(scale_format, args.num_bits, args.symmetric)
        self.narrow_range = narrow_range
        qmin, qmax = grid.qrange(args.num_bits, narrow_range)
        start = {"qmin": qmin, "qmax": qmax, "enabled": 1, "mix": 1, "observe": 0}
        for name, value in start.items():
            self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def __repr__(self) -> str:
        """The class and its grid, e.g. ``LSQFakeQuantizer(4 bits, group 32, symmetric, bf16 scales)``."""
        size = f" {self.args.group_size}" if self.args.group_size else ""
        symmetry = "symmetric" if self.args.symmetric else "asymmetric"
        narrow = ", narrow range" if self.narrow_range else ""
        return (
            f"{type(self).__name__}({self.args.num_bits} bits, {self.args.strategy}{size}, {symmetry}{narrow}, "
            f"{self.scale_format.name} scales)"
        )

    @property
    def spec(self) -> GridSpec:
        """What an observer must know of this grid."""
        return GridSpec(self.args.num_bits, self.args.symmetric, self.scale_format, self.narrow_range)

    def set_precision(self, bits: int, enabled: bool, mix: float, observe: bool) -> None:
        """Write one :class:`~qat.schedule.PrecisionState` into the buffers, in place."""
        qmin, qmax = grid.qrange(bits, self.narrow_range)
        self.qmin.fill_(qmin)
        self.qmax.fill_(qmax)
        self.enabled.fill_(float(enabled))
        self.mix.fill_(mix)
        self.observe.fill_(float(observe))

    @property
    def final(self) -> bool:
        """Whether the buffers hold what the scheme promises: its own bits, on, unmixed."""
        _, qmax = grid.qrange(self.args.num_bits)
        return bool(self.qmax == qmax) and bool(self.enabled * self.mix == 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x`` (any float dtype, computed in float32); same shape and dtype."""
        groups = grid.to_groups(x.float(), self.args)
        return self.fake_quantize(groups, self.enabled * self.mix).reshape(x.shape).to(x.dtype)

    @torch.no_grad()
    def grid(self, x: Tensor) -> Grid:
        """The codes and scale that :meth:`forward` rounds ``x`` to, in their storage dtypes."""
        groups = grid.to_groups(x.detach().float(), self.args)
        scale, zero_point = self.scale_and_zero_point(groups)
        codes = grid.quantize(groups, scale, zero_point, self.qmin, self.qmax)
        if zero_point is not None:
            zero_point = grid.stored_shape(zero_point, self.args).to(torch.int8)
        stored = grid.stored_shape(scale, self.args).to(self.scale_format.dtype)
        return Grid(codes.reshape(x.shape).to(torch.int8), stored, zero_point)

    def ranges(self) -> list[nn.Parameter]:
        """The learned clip ranges; empty where nothing is learned."""
        return []

    def fake_quantize(self, groups: Tensor, mix: Tensor) -> Tensor:
        """Quantize and dequantize ``groups`` float32 [rows, n_groups, k]; ``mix`` is 0 when disabled.

        This is for a grid that is not learned: the gradient passes to ``groups`` whole, and none goes to the grid.
        """
        detached = groups.detach()
        scale, zero_point = self.scale_and_zero_point(detached)
        codes = grid.quantize(detached, scale, zero_point, self.qmin, self.qmax)
        rounded = grid.dequantize(codes, scale, zero_point)
        return _StraightThrough.apply(groups, blend(detached, rounded, mix))

    @abstractmethod
    def init_range(self, observer: Observer, tensor: Tensor) -> None:
        """Set the clip range from ``tensor``."""

    @abstractmethod
    def scale_and_zero_point(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point [rows, n_groups] in float32, rounded as stored."""


class _StraightThrough(torch.autograd.Function):
    """``apply(x, y)`` is ``y`` bit for bit, with the gradient of ``x``."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y``."""
        return y.view_as(y)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient to ``x``."""
        return grad, None
