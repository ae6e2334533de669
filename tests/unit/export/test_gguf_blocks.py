from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from gguf.quants import dequantize

from qat.errors import RunError
from qat.export.gguf.blocks import TYPES, fp16_scales, on_blocks, pack, packed_bytes, to_grid, unpack
from qat.grid import Grid, qrange

FLOOR = 2.0**-100


def codes_of(bits: int, rows: int = 3, columns: int = 64) -> np.ndarray:
    low, high = qrange(bits)
    return np.random.default_rng(0).integers(low, high + 1, (rows, columns)).astype(np.int8)


def test_a_q4_0_block_is_the_scale_and_then_the_two_halves_in_nibbles_with_an_offset_of_eight():
    codes = np.zeros((1, 32), np.int8)
    codes[0, :2], codes[0, 16:18] = (-8, 7), (1, -1)
    assert pack(codes, np.array([[1.0]], np.float16), 4).tolist() == [[0x00, 0x3C, 0x90, 0x7F] + 14 * [0x88]]


def test_a_q8_0_block_is_the_scale_and_then_the_codes():
    codes = np.arange(-128, -96, dtype=np.int8).reshape(1, 32)
    assert pack(codes, np.array([[-2.0]], np.float16), 8).tolist() == [[0x00, 0xC0, *range(128, 160)]]


@pytest.mark.parametrize("bits", [4, 8])
def test_gguf_dequantizes_the_blocks_to_codes_times_scales(bits):
    codes = codes_of(bits)
    scale = np.random.default_rng(1).uniform(1e-4, 2, (3, 2)).astype(np.float16)
    blocks = pack(codes, scale, bits)
    assert blocks.size == packed_bytes((3, 64), bits)
    expected = codes.reshape(3, 2, 32) * scale.astype(np.float32)[..., None]
    assert np.array_equal(dequantize(blocks, TYPES[bits]), expected.reshape(3, 64))
    again, scales = unpack(blocks, bits)
    assert np.array_equal(again, codes)
    assert np.array_equal(scales.view(np.uint16), scale.view(np.uint16))


def test_a_scale_that_is_not_a_number_is_found():
    blocks = pack(codes_of(4), np.full((3, 2), np.nan, np.float16), 4)
    with pytest.raises(RunError, match="other values"):
        unpack(blocks, 4)


@pytest.mark.parametrize(
    ("strategy", "group", "shape"), [("tensor", None, (1,)), ("channel", None, (3, 1)), ("group", 64, (3, 2))]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_repeated_scales_come_back_in_the_checkpoints_shape_and_dtype(strategy, group, shape, dtype):
    args = QuantizationArgs(num_bits=4, strategy=strategy, group_size=group)
    scale = (torch.rand(shape).bfloat16() + 0.5).to(dtype)
    grid = Grid(torch.from_numpy(codes_of(4, columns=128)), scale)
    half, inexact = fp16_scales(grid, FLOOR)
    assert inexact == 0
    spread = on_blocks(half, (3, 128))
    assert spread.shape == (3, 4)
    again = to_grid(*unpack(pack(grid.codes.numpy(), spread.numpy(), 4), 4), args, dtype, FLOOR)
    assert again.scale.dtype == dtype
    assert torch.equal(again.scale, scale)
    assert torch.equal(again.codes, grid.codes)


def test_different_scales_in_one_group_are_refused():
    args = QuantizationArgs(num_bits=4, strategy="channel")
    scale = np.array([[1.0, 2.0]], np.float16)
    with pytest.raises(RunError, match="different scales"):
        to_grid(codes_of(4, rows=1), scale, args, torch.float16, FLOOR)


def test_a_group_of_zeros_keeps_a_floor_that_fp16_cannot_hold():
    codes = torch.from_numpy(codes_of(4, rows=2, columns=32))
    codes[1] = 0
    grid = Grid(codes, torch.tensor([[0.5], [FLOOR]]).bfloat16())
    half, inexact = fp16_scales(grid, FLOOR)
    assert inexact == 0
    assert half.tolist() == [[0.5], [0.0]]
    args = QuantizationArgs(num_bits=4, strategy="channel")
    assert torch.equal(to_grid(codes.numpy(), half.numpy(), args, torch.bfloat16, FLOOR).scale, grid.scale)


@pytest.mark.parametrize("bad", [1.0 + 2.0**-11, 2.0**-25, 70000.0, FLOOR])
def test_scales_that_fp16_cannot_hold_are_counted(bad):
    grid = Grid(torch.ones(2, 32, dtype=torch.int8), torch.tensor([[0.5], [bad]]))
    assert fp16_scales(grid, FLOOR)[1] == 1


@pytest.mark.parametrize("other", [2.0**-30, 2.0**-101])
def test_a_group_of_zeros_with_a_scale_of_its_own_is_counted(other):
    grid = Grid(torch.zeros(1, 32, dtype=torch.int8), torch.tensor([[other]]))
    assert fp16_scales(grid, FLOOR)[1] == 1
