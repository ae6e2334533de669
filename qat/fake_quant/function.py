"""Autograd functions of range-learning fake quantization.

Forward: ``y = (clamp(round(x / s + z), qmin, qmax) - z) * s``; output ``x + mix * (y - x)``.
Backward: the straight-through estimator for rounding, of ``x`` and of the scale. Inside the range
``dy/dx = 1`` and ``dy/ds = code - x / s - z`` ; outside, ``y`` is an end of the range, so ``dy/dx = 0`` and the
whole gradient goes to that end (LSQ, arXiv:1902.08153, eq. 3 and 5; with two ends as in LSQ+, arXiv:2004.09576).

Nothing but the input and its range is saved; the codes are computed again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat import grid
from qat.grid import ScaleFormat


def blend(x: Tensor, y: Tensor, mix: Tensor) -> Tensor:
    """``x`` at mix 0, ``y`` at mix 1, both bit for bit (the sum in between would round)."""
    return torch.where(mix >= 1.0, y, torch.where(mix <= 0.0, x, x + mix * (y - x)))


class _LearnedRange(torch.autograd.Function):
    """What both functions share: ``apply(x, <ends of the range>, qmin, qmax, mix, scale_format, gradient_scale)``.

    ``x`` is [rows, n_groups, k], an end [rows, n_groups]; all tensors are float32 and scalars 0-d tensors.
    ``gradient_scale`` is LSQ's ``1 / sqrt(k * qmax)`` switched on or off.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the inputs, and nothing that is computed from them."""
        *tensors, ctx.scale_format, ctx.gradient_scale = inputs
        ctx.save_for_backward(*tensors)


def _round(x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Tensor, qmax: Tensor, mix: Tensor) -> Tensor:
    codes = grid.quantize(x, scale, zero_point, qmin, qmax)
    return blend(x, grid.dequantize(codes, scale, zero_point), mix)


class SymmetricFakeQuantize(_LearnedRange):
    """Round onto a symmetric grid with a learned limit.

    ``apply(x, limit, qmin, qmax, mix, scale_format, gradient_scale)``.
    """

    @staticmethod
    def forward(
        x: Tensor,
        limit: Tensor,
        qmin: Tensor,
        qmax: Tensor,
        mix: Tensor,
        scale_format: ScaleFormat,
        gradient_scale: bool,
    ) -> Tensor:
        """See the class."""
        return _round(x, grid.symmetric_scale(limit, qmax, scale_format), None, qmin, qmax, mix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See the module."""
        x, limit, qmin, qmax, mix = ctx.saved_tensors
        scale = grid.symmetric_scale(limit, qmax, ctx.scale_format)
        position = grid.position(x, scale, None)
        inside = (position >= qmin) & (position <= qmax)
        grad_x = grad * torch.where(inside, 1.0, 1.0 - mix) if ctx.needs_input_grad[0] else None
        grad_limit = None
        if ctx.needs_input_grad[1]:
            codes = torch.clamp(torch.round(position), qmin, qmax)
            per_scale = codes - position * inside
            grad_limit = (grad * per_scale).sum(dim=-1) * mix / qmax
            if ctx.gradient_scale:
                grad_limit = grad_limit * torch.rsqrt(x.shape[-1] * qmax)
        return grad_x, grad_limit, None, None, None, None, None


class AsymmetricFakeQuantize(_LearnedRange):
    """Round onto an asymmetric grid with two learned ends.

    ``apply(x, lower, upper, qmin, qmax, mix, scale_format, gradient_scale)``.
    """

    @staticmethod
    def forward(
        x: Tensor,
        lower: Tensor,
        upper: Tensor,
        qmin: Tensor,
        qmax: Tensor,
        mix: Tensor,
        scale_format: ScaleFormat,
        gradient_scale: bool,
    ) -> Tensor:
        """See the class."""
        return _round(x, *grid.asymmetric_scale(lower, upper, qmin, qmax, scale_format), qmin, qmax, mix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See the module."""
        x, lower, upper, qmin, qmax, mix = ctx.saved_tensors
        scale, zero_point = grid.asymmetric_scale(lower, upper, qmin, qmax, ctx.scale_format)
        position = grid.position(x, scale, zero_point)
        below, above = position < qmin, position > qmax
        inside = ~(below | above)
        grad_x = grad * torch.where(inside, 1.0, 1.0 - mix) if ctx.needs_input_grad[0] else None
        grad_lower = grad_upper = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            steps = qmax - qmin
            rounding = (grad * (torch.round(position) - position) * inside).sum(dim=-1) / steps
            grad_lower = ((grad * below).sum(dim=-1) - rounding) * mix
            grad_upper = ((grad * above).sum(dim=-1) + rounding) * mix
            if ctx.gradient_scale:
                factor = torch.rsqrt(x.shape[-1] * steps)
                grad_lower, grad_upper = grad_lower * factor, grad_upper * factor
        return grad_x, grad_lower, grad_upper, None, None, None, None, None
