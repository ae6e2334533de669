"""The modules: one grid in forward and freeze, schedule buffers, ranges as parameters."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from torchao.quantization.qat import FakeQuantizerBase

from qat.fake_quant.base import Layout
from qat.fake_quant.dynamic import Dynamic
from qat.fake_quant.fixed import Fixed
from qat.fake_quant.lsq import LSQ
from qat.fake_quant.minmax import MinMax
from qat.grid import group_count
from qat.observers.minmax import MinMax as MinMaxObserver
from qat.observers.mse import MSE


def make(config: LSQ | MinMax, bits: int = 4, strategy: str = "channel", symmetric: bool = True, form: str = "bf16"):
    group = {"group_size": 8} if strategy == "group" else {}
    args = QuantizationArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, **group)
    return config.build(args, Layout(*group_count((6, 16), args)), form)


@pytest.mark.parametrize("config", [LSQ(), MinMax()])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", ["fp32", "bf16", "fp16", "lossless_fp16", "significand_2"])
def test_forward_is_the_grid_bit_for_bit(config, bits: int, strategy: str, symmetric: bool, form: str) -> None:
    torch.manual_seed(bits)
    quantizer = make(config, bits, strategy, symmetric, form)
    weight = torch.randn(6, 16)
    quantizer.init_range(MSE(candidates=10), weight)
    frozen = quantizer.grid(weight)
    assert frozen.scale.dtype == quantizer.scale_format.dtype
    assert torch.equal(quantizer(weight), frozen.value())


def test_it_is_a_torchao_fake_quantizer() -> None:
    assert isinstance(make(LSQ()), FakeQuantizerBase)
    assert repr(make(LSQ(), strategy="group")) == ("LSQFakeQuantizer(4 bits, group 8, symmetric, bf16 scales)")


def test_ranges_are_parameters_from_construction_and_reload() -> None:
    quantizer = make(LSQ(), symmetric=False)
    assert set(dict(quantizer.named_parameters())) == {"lower", "upper"}
    assert set(quantizer.state_dict()) == {"lower", "upper"}, "what the schedule derives is not saved"
    quantizer.init_range(MSE(), torch.randn(6, 16))
    twin = make(LSQ(), symmetric=False)
    twin.load_state_dict(quantizer.state_dict())
    weight = torch.randn(6, 16)
    assert torch.equal(twin(weight), quantizer(weight))


def test_lsq_learns_and_fixed_ranges_do_not() -> None:
    weight = torch.randn(6, 16)
    for learn in (True, False):
        quantizer = make(LSQ(learn=learn))
        quantizer.init_range(MinMaxObserver(), weight)
        assert [p.requires_grad for p in quantizer.ranges()] == [learn]


def test_bits_change_and_the_range_stays() -> None:
    quantizer = make(LSQ(), bits=4, form="fp32")
    weight = torch.randn(6, 16)
    quantizer.init_range(MinMaxObserver(), weight)
    limit = quantizer.limit.detach().clone()
    errors = []
    for bits in (8, 6, 4):
        quantizer.set_precision(bits, enabled=True, mix=1.0, observe=False)
        torch.testing.assert_close(quantizer.grid(weight).scale, limit / (2 ** (bits - 1) - 1))
        errors.append((quantizer(weight) - weight).abs().max().item())
    assert errors == sorted(errors)
    assert torch.equal(quantizer.limit, limit)


def test_disabled_is_the_identity_and_not_final() -> None:
    quantizer = make(LSQ())
    weight = torch.randn(6, 16)
    quantizer.init_range(MSE(), weight)
    assert quantizer.final
    for bits, enabled, mix in ((4, False, 1.0), (8, True, 1.0), (4, True, 0.5)):
        quantizer.set_precision(bits, enabled, mix, observe=False)
        assert not quantizer.final
    quantizer.set_precision(4, enabled=False, mix=1.0, observe=False)
    assert torch.equal(quantizer(weight), weight)


def test_half_precision_weights_are_rounded_in_float32() -> None:
    quantizer = make(LSQ())
    weight = torch.randn(6, 16).bfloat16()
    quantizer.init_range(MSE(), weight)
    out = quantizer(weight)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, quantizer.grid(weight).value().bfloat16())


def test_minmax_follows_the_weight() -> None:
    quantizer = make(MinMax(), form="fp32")
    weight = torch.randn(6, 16, requires_grad=True)
    assert torch.equal(quantizer.grid(weight).scale, weight.detach().abs().amax(-1, keepdim=True) / 7)
    assert torch.equal(quantizer.grid(weight * 2).scale, weight.detach().abs().amax(-1, keepdim=True) * 2 / 7)
    quantizer(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight)), "nothing is clipped, so every gradient passes"
    assert quantizer.ranges() == []


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["token", "tensor"])
def test_dynamic_scales_are_those_of_compressed_tensors(symmetric: bool, strategy: str) -> None:
    args = QuantizationArgs(num_bits=8, strategy=strategy, symmetric=symmetric, dynamic=True)
    x = torch.randn(2, 5, 16)
    quantizer = Dynamic().build(args, Layout(1, 1, activation=True), "fp32")
    theirs, zero = compute_dynamic_scales_and_zp(x, args, quantizer)
    ours = quantizer.grid(x)
    assert torch.equal(ours.scale.flatten(), theirs.flatten())
    if not symmetric:
        assert torch.equal(ours.zero_point.flatten(), zero.flatten().to(torch.int8))


def test_dynamic_rounds_every_token_by_itself() -> None:
    args = QuantizationArgs(num_bits=8, strategy="token", symmetric=True, dynamic=True)
    quantizer = Dynamic().build(args, Layout(1, 1, activation=True), "fp32")
    x = torch.randn(2, 5, 16, requires_grad=True)
    alone = torch.stack([torch.stack([quantizer(token) for token in row]) for row in x])
    together = quantizer(x)
    assert torch.equal(together, alone)
    together.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_static_activation_widens_only_while_observing() -> None:
    args = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=False)
    quantizer = LSQ().build(args, Layout(1, 1, activation=True), "fp32")
    assert not quantizer.has_range
    quantizer.set_precision(8, enabled=False, mix=1.0, observe=True)
    quantizer(torch.tensor([[-1.0, 2.0]]))
    quantizer(torch.tensor([[-0.5, 3.0]]))
    assert quantizer.has_range
    quantizer.set_precision(8, enabled=True, mix=1.0, observe=False)
    quantizer(torch.tensor([[-9.0, 9.0]]))
    assert (quantizer.lower.item(), quantizer.upper.item()) == (-1.0, 3.0)


def test_fixed_uses_the_stored_scale_as_it_is() -> None:
    args = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=False)
    scale, zero = torch.tensor([0.1]), torch.tensor([3], dtype=torch.int8)
    quantizer = Fixed(scale, zero).build(args, Layout(1, 1, activation=True), "fp32")
    x = torch.randn(4, 16)
    expected = ((x / 0.1 + 3).round().clamp(-128, 127) - 3) * torch.tensor(0.1)
    assert torch.equal(quantizer(x), expected)


@pytest.mark.parametrize("config", [LSQ(), MinMax()])
def test_ternary_by_hand(config: LSQ | MinMax) -> None:
    """Min-max: the limit is 2, so is the scale, and codes below -1 there are none."""
    args = QuantizationArgs(num_bits=2, strategy="channel")
    narrow = config.build(args, Layout(1, 1, narrow_range=True), "bf16")
    weight = torch.tensor([[-2.0, -1.1, -1.0, -0.9, 0.0, 1.0, 1.1, 1.9]])
    narrow.init_range(MinMaxObserver(), weight)
    found = narrow.grid(weight)
    assert found.codes.tolist() == [[-1, -1, 0, 0, 0, 0, 1, 1]] and found.codes.dtype == torch.int8
    assert found.scale.tolist() == [[2.0]] and found.scale.dtype == torch.bfloat16
    assert narrow(weight).tolist() == [[-2.0, -2.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0]]
    assert "2 bits, channel, symmetric, narrow range, bf16 scales" in repr(narrow)


def test_a_narrow_range_stays_narrow_whatever_the_bits() -> None:
    """Clipped to 1, codes of -2 would be there without it."""
    args, weight = QuantizationArgs(num_bits=2, strategy="channel"), torch.tensor([[-3.0, -1.6, 0.4, 3.0]])
    narrow, full = (LSQ().build(args, Layout(1, 1, narrow_range=on), "fp32") for on in (True, False))
    for quantizer in (narrow, full):
        quantizer.set_range(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    assert full.grid(weight).codes.tolist() == [[-2, -2, 0, 1]]
    assert narrow.grid(weight).codes.tolist() == [[-1, -1, 0, 1]]
    for bits in (8, 4, 3, 2):
        narrow.set_precision(bits, enabled=True, mix=1.0, observe=False)
        assert (narrow.qmin.item(), narrow.qmax.item()) == (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
        assert narrow.grid(weight).codes.min() == narrow.qmin and narrow.final == (bits == 2)


def test_an_observer_searches_on_the_narrow_grid() -> None:
    """Every candidate is tried by hand on {-1, 0, 1}."""
    args, weight = QuantizationArgs(num_bits=2, strategy="channel"), torch.tensor([[-1.0, -0.9, -0.5, 0.1, 0.2, 0.6]])
    narrow = LSQ().build(args, Layout(1, 1, narrow_range=True), "fp32")
    narrow.init_range(MSE(candidates=19, smallest=0.1), weight)
    limits = torch.linspace(1.0, 0.1, 19)
    errors = [((weight / s).round().clamp(-1, 1) * s - weight).square().sum().item() for s in limits]
    assert narrow.limit.item() == limits[errors.index(min(errors))].item()
    full = LSQ().build(args, Layout(1, 1), "fp32")
    full.init_range(MSE(candidates=19, smallest=0.1), weight)
    assert full.limit.item() != narrow.limit.item()
