"""Rounding, scales, groups and scale formats, against hand-computed values and compressed-tensors' own code."""

from __future__ import annotations

import itertools

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize as ct_dequantize
from compressed_tensors.quantization.lifecycle.forward import quantize as ct_quantize
from hypothesis import given
from hypothesis import strategies as st

from qat import grid
from qat.errors import InputError
from qat.grid import Grid

FORMATS = ["fp32", "bf16", "fp16", "lossless_fp16", "lossless_bf16", "significand_1", "significand_4", "significand_12"]


def weight_args(bits: int, strategy: str, symmetric: bool) -> QuantizationArgs:
    group = {"group_size": 8} if strategy == "group" else {}
    return QuantizationArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, **group)


def bounds(bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = grid.qrange(bits)
    return torch.tensor(float(low)), torch.tensor(float(high))


def test_codes_and_values_by_hand() -> None:
    groups = torch.tensor([[[-1.0, -0.26, 0.25, 0.75, 9.0]]])
    scale = torch.tensor([[0.5]])
    codes = grid.quantize(groups, scale, None, *bounds(2))
    # positions -2, -0.52, 0.5, 1.5, 18: ties to even, then clamped to -2..1
    assert codes.tolist() == [[[-2.0, -1.0, 0.0, 1.0, 1.0]]]
    assert grid.dequantize(codes, scale, None).tolist() == [[[-1.0, -0.5, 0.0, 0.5, 0.5]]]


def test_asymmetric_grid_by_hand() -> None:
    form = grid.scale_format("fp32", 2, symmetric=False)
    lower, upper = torch.tensor([[-0.5]]), torch.tensor([[1.0]])
    scale, zero_point = grid.asymmetric_scale(lower, upper, *bounds(2), form)
    assert scale.item() == 0.5 and zero_point.item() == -1.0  # -2 - (-0.5 / 0.5)
    codes = grid.quantize(torch.tensor([[[-0.5, 0.0, 0.4, 1.0]]]), scale, zero_point, *bounds(2))
    assert codes.tolist() == [[[-2.0, -1.0, 0.0, 1.0]]]
    assert grid.dequantize(codes, scale, zero_point).tolist() == [[[-0.5, 0.0, 0.5, 1.0]]]


def test_asymmetric_range_always_holds_zero() -> None:
    form = grid.scale_format("fp32", 4, symmetric=False)
    scale, zero_point = grid.asymmetric_scale(torch.tensor([[2.0]]), torch.tensor([[3.0]]), *bounds(4), form)
    zero = grid.quantize(torch.zeros(1, 1, 1), scale, zero_point, *bounds(4))
    assert grid.dequantize(zero, scale, zero_point).item() == 0.0
    assert scale.item() == pytest.approx(3.0 / 15)


@pytest.mark.parametrize("bits", [1, 9, 0, -4])
def test_bits_outside_the_range_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match=f"num_bits is {bits}; allowed are 2 to 8"):
        grid.qrange(bits)


def test_qrange_by_hand() -> None:
    assert [grid.qrange(bits) for bits in (2, 3, 4, 8)] == [(-2, 1), (-4, 3), (-8, 7), (-128, 127)]


def test_a_narrow_range_is_as_wide_below_zero_as_above() -> None:
    assert [grid.qrange(bits, narrow_range=True) for bits in (2, 3, 4, 8)] == [(-1, 1), (-3, 3), (-7, 7), (-127, 127)]


def test_group_counts_and_views() -> None:
    weight = torch.arange(4 * 16.0).reshape(4, 16)
    for strategy, expected in {"tensor": (1, 1, 64), "channel": (4, 1, 16), "group": (4, 2, 8)}.items():
        args = weight_args(4, strategy, True)
        assert grid.group_count((4, 16), args) == expected[:2]
        assert tuple(grid.to_groups(weight, args).shape) == expected
    token = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    assert tuple(grid.to_groups(torch.zeros(2, 3, 5), token).shape) == (6, 1, 5)


def test_group_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="group_size 8 does not divide 12 input features.*group_fallback"):
        grid.group_count((4, 12), weight_args(4, "group", True))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_same_codes_and_values_as_compressed_tensors(bits: int, strategy: str, symmetric: bool) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(6, 16)
    args = weight_args(bits, strategy, symmetric)
    groups = grid.to_groups(weight, args)
    form = grid.scale_format("fp32", bits, symmetric)
    if symmetric:
        scale, zero_point = grid.symmetric_scale(groups.abs().amax(-1), bounds(bits)[1], form), None
    else:
        ends = groups.amin(-1), groups.amax(-1)
        scale, zero_point = grid.asymmetric_scale(*ends, *bounds(bits), form)
    codes = grid.quantize(groups, scale, zero_point, *bounds(bits)).reshape(weight.shape).to(torch.int8)
    stored_zero = None if zero_point is None else grid.stored_shape(zero_point, args).to(torch.int8)
    ours = Grid(codes, grid.stored_shape(scale, args), stored_zero)
    theirs = ct_quantize(weight, ours.scale, ours.zero_point, args, dtype=torch.int8)
    assert torch.equal(ours.codes, theirs)
    assert torch.equal(ours.value(), ct_dequantize(theirs, ours.scale, ours.zero_point, args))


@pytest.mark.parametrize("name", FORMATS)
@given(exponent=st.floats(-13, 4), bits=st.integers(2, 8))
def test_scales_survive_storage(name: str, exponent: float, bits: int) -> None:
    symmetric = bits == 8 or bits % 2 == 0
    form = grid.scale_format(name, bits, symmetric)
    rounded = form.round(torch.tensor([2.0**exponent]))
    assert torch.equal(rounded.to(form.dtype).float(), rounded)
    assert torch.equal(form.round(rounded), rounded), "rounding twice must change nothing"


@pytest.mark.parametrize(("name", "dtype"), [("lossless_fp16", torch.float16), ("lossless_bf16", torch.bfloat16)])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_lossless_formats_are_lossless(name: str, dtype: torch.dtype, bits: int, symmetric: bool) -> None:
    """Every product of every code and a spread of scales, ends of the exponent range included, is exact."""
    if name == "lossless_bf16" and bits == 8 and not symmetric:
        with pytest.raises(InputError, match="leave no bit"):
            grid.scale_format(name, bits, symmetric)
        return
    form = grid.scale_format(name, bits, symmetric)
    scales = form.round(torch.cat([torch.logspace(-12, 6, 200), torch.tensor([0.0, 1e-30, 1e30])]))
    low, high = grid.qrange(bits)
    codes = torch.arange(low, high + 1.0) if symmetric else torch.arange(low - high, high - low + 1.0)
    exact = scales.double()[:, None] * codes.double()
    assert torch.equal(exact.to(dtype).double(), exact)


def test_significand_bits_by_hand() -> None:
    assert grid.scale_format("lossless_fp16", 4, True).significand == 8
    assert grid.scale_format("lossless_fp16", 8, True).significand == 4
    assert grid.scale_format("lossless_bf16", 8, True).significand == 1
    assert grid.scale_format("lossless_bf16", 4, False).significand == 4
    power_of_two = grid.scale_format("significand_1", 4, True)
    assert power_of_two.round(torch.tensor([0.3, 0.4, 3.1])).tolist() == [0.25, 0.5, 4.0]
    three = grid.scale_format("significand_3", 4, True)
    assert three.round(torch.tensor([1.0, 1.1, 1.2, 1.9, 1.125])).tolist() == [1.0, 1.0, 1.25, 2.0, 1.0]


def test_bf16_and_significand_8_agree() -> None:
    scales = torch.rand(1000) + 1e-3
    bf16, eight = (grid.scale_format(name, 4, True) for name in ("bf16", "significand_8"))
    assert torch.equal(bf16.round(scales), eight.round(scales))


def test_zero_range_gives_a_usable_scale() -> None:
    for name in FORMATS:
        form = grid.scale_format(name, 4, True)
        scale = grid.symmetric_scale(torch.zeros(1, 1), torch.tensor(7.0), form)
        assert scale.item() > 0
        assert Grid(torch.zeros(1, 4, dtype=torch.int8), scale.to(form.dtype)).value().tolist() == [[0.0] * 4]


@pytest.mark.parametrize("name", ["fp61", "significand_0", "significand_25", "lossless"])
def test_unknown_scale_formats_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="scale_format"):
        grid.scale_format(name, 4, True)


def test_value_of_every_shape() -> None:
    codes = torch.tensor([[1, 2, 3, 4], [-1, -2, -3, -4]], dtype=torch.int8)
    for scale in (torch.tensor([0.5]), torch.tensor([[0.5], [2.0]]), torch.tensor([[0.5, 1.0], [2.0, 4.0]])):
        full = scale.reshape(1, 1) if scale.ndim == 1 else scale
        wide = full.repeat_interleave(4 // full.shape[1], dim=1).expand(2, 4)
        for zero in (None, torch.ones_like(scale, dtype=torch.int8)):
            shift = 0 if zero is None else 1
            assert torch.equal(Grid(codes, scale, zero).value(), (codes.float() - shift) * wide)


def test_every_int4_times_bf16_scale_is_exact_in_fp16() -> None:
    """The claim of the numeric contract, over every bf16 significand."""
    scales = (1 + torch.arange(128) / 128).to(torch.bfloat16).float()
    for code, scale in itertools.product(range(-8, 8), scales.tolist()):
        product = torch.tensor(code * scale, dtype=torch.float64)
        assert product.half().double() == product
