"""Gradients of range learning, against the formulas of the papers written out and autograd on a smooth twin."""

from __future__ import annotations

import pytest
import torch

from qat import grid
from qat.fake_quant.function import AsymmetricFakeQuantize, SymmetricFakeQuantize

QMIN, QMAX = torch.tensor(-8.0), torch.tensor(7.0)
ONE = torch.tensor(1.0)
FP32 = grid.scale_format("fp32", 4, True)


def test_lsq_gradients_by_hand() -> None:
    """LSQ (arXiv:1902.08153) equations 3 and 5, for one group of four weights and scale 0.5."""
    x = torch.tensor([[[0.6, -0.2, 9.0, -7.0]]], requires_grad=True)
    limit = torch.tensor([[3.5]], requires_grad=True)  # scale 0.5
    out = SymmetricFakeQuantize.apply(x, limit, QMIN, QMAX, ONE, FP32, True)
    assert out.tolist() == [[[0.5, 0.0, 3.5, -4.0]]]
    out.backward(torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]]))
    assert x.grad.tolist() == [[[1.0, 10.0, 0.0, 0.0]]]
    per_scale = 1 * (1 - 1.2) + 10 * (0 - -0.4) + 100 * 7 + 1000 * -8
    expected = per_scale / 7 / (4 * 7) ** 0.5
    assert limit.grad.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_scale_can_be_off() -> None:
    grads = []
    for scaled in (True, False):
        limit = torch.tensor([[1.0]], requires_grad=True)
        x = torch.linspace(-2, 2, 16).reshape(1, 1, 16)
        SymmetricFakeQuantize.apply(x, limit, QMIN, QMAX, ONE, FP32, scaled).sum().backward()
        grads.append(limit.grad.item())
    assert grads[0] == pytest.approx(grads[1] / (16 * 7) ** 0.5)


def _straight_through(x: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """LSQ+ written with autograd: detached rounding residues, a clamp, and nothing hand-derived."""
    scale = (upper - lower) / 15
    zero = (QMIN - lower / scale).detach().round()
    position = x / scale.unsqueeze(-1) + zero.unsqueeze(-1)
    inside = (position >= -8) & (position <= 7)
    residue = (position.round() - position).detach()
    inner = x + residue * scale.unsqueeze(-1)
    return torch.where(inside, inner, torch.where(position > 7, upper.unsqueeze(-1), lower.unsqueeze(-1)))


def test_asymmetric_gradients_match_autograd() -> None:
    torch.manual_seed(0)
    weights = torch.randn(3, 2, 32)
    form = grid.scale_format("fp32", 4, False)
    grad = torch.randn(3, 2, 32)
    results = []
    for function in ("ours", "autograd"):
        x = weights.clone().requires_grad_()
        lower = torch.full((3, 2), -1.1, requires_grad=True)
        upper = torch.full((3, 2), 1.4, requires_grad=True)
        if function == "ours":
            out = AsymmetricFakeQuantize.apply(x, lower, upper, QMIN, QMAX, ONE, form, False)
        else:
            out = _straight_through(x, lower, upper)
        out.backward(grad)
        results.append((x.grad, lower.grad, upper.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_mix_blends_value_and_gradient(asymmetric: bool) -> None:
    x = torch.tensor([[[0.6, 9.0]]], requires_grad=True)

    def run(mix: float) -> torch.Tensor:
        shared = (QMIN, QMAX, torch.tensor(mix), FP32, False)
        limit = torch.tensor([[3.5]])
        if asymmetric:
            return AsymmetricFakeQuantize.apply(x, -limit, limit, *shared)
        return SymmetricFakeQuantize.apply(x, limit, *shared)

    assert torch.equal(run(0.0), x)
    quantized = run(1.0)
    torch.testing.assert_close(run(0.25), 0.75 * x + 0.25 * quantized)
    (gradient,) = torch.autograd.grad(run(0.25).sum(), x)
    assert gradient.tolist() == [[[1.0, 0.75]]]


def test_only_input_and_range_are_saved() -> None:
    x = torch.randn(4, 1, 64, requires_grad=True)
    limit = torch.ones(4, 1, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        SymmetricFakeQuantize.apply(x, limit, QMIN, QMAX, ONE, FP32, True)
    assert sum(tensor.numel() for tensor in saved) == x.numel() + limit.numel() + 3
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in saved)


def test_scale_rounding_is_straight_through() -> None:
    """With power-of-two scales the range still gets LSQ's gradient, computed at the rounded scale."""
    form = grid.scale_format("significand_1", 4, True)
    limit = torch.tensor([[3.0]], requires_grad=True)  # 3 / 7 = 0.43 -> 0.5
    x = torch.tensor([[[0.6, 9.0]]])
    out = SymmetricFakeQuantize.apply(x, limit, QMIN, QMAX, ONE, form, False)
    assert out.tolist() == [[[0.5, 3.5]]]
    out.sum().backward()
    assert limit.grad.item() == pytest.approx(((1 - 1.2) + 7) / 7, rel=1e-6)
