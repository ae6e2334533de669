"""GGUF blocks: 32 neighbouring codes of a row and one fp16 scale, built from integers and never from rounded floats.

    Q4_0   18 bytes   scale fp16, then 16 bytes: code j + 8 in the low nibble, code j + 16 + 8 in the high one
    Q8_0   34 bytes   scale fp16, then 32 codes int8

Layout: ``block_q4_0`` and ``block_q8_0`` of ggml-common.h. A symmetric grid fits exactly if its scales are exact in
fp16 and lie on blocks of 32: a scale of a larger group, a row or the whole tensor is repeated. A narrower grid takes
the room of the block it lies in.
"""

from __future__ import annotations

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from gguf import GGMLQuantizationType, quant_shape_to_byte_shape
from gguf.quants import Q4_0, Q8_0
from numpy.typing import NDArray
from torch import Tensor

from qat.errors import RunError
from qat.grid import Grid, stored_shape

BLOCK = 32
TYPES = {4: GGMLQuantizationType.Q4_0, 8: GGMLQuantizationType.Q8_0}
Bytes = NDArray[np.uint8]

_READERS = {4: Q4_0, 8: Q8_0}
_LAYOUT = {bits: np.dtype([("scale", "<f2"), ("codes", "<u8", (words,))]) for bits, words in ((4, 2), (8, 4))}
# Eight codes at a time.
_LOW, _EIGHTS, _FOUR = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x8888888888888888), np.uint64(4)


def block_bits(args: QuantizationArgs) -> int:
    """Bits of a code in the file: 4 (Q4_0) for 2 to 4 bits, 8 (Q8_0) for 5 to 8. The codes are the same."""
    return 4 if int(args.num_bits) <= 4 else 8


def packed_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Bytes of the blocks of a weight ``[rows, columns]``."""
    rows, row_bytes = quant_shape_to_byte_shape(shape, TYPES[bits])
    return rows * row_bytes


def pack(codes: NDArray[np.int8], scale: NDArray[np.float16], bits: int) -> Bytes:
    """Blocks uint8 [rows, bytes a row] of codes int8 [rows, columns] and scales fp16 [rows, columns / 32].

    Example:
        >>> pack(np.full((1, 32), -8, np.int8), np.ones((1, 1), np.float16), 4)[0, :4]
        array([ 0, 60,  0,  0], dtype=uint8)
    """
    words = np.ascontiguousarray(codes).view(np.uint64).reshape(-1, BLOCK // 8)
    blocks = np.empty(len(words), _LAYOUT[bits])
    blocks["scale"] = scale.reshape(-1)
    if bits == 4:
        for word in range(2):
            low, high = words[:, word] & _LOW, words[:, word + 2] & _LOW
            # The two's complement nibble of a code, with its top bit flipped, is code + 8.
            blocks["codes"][:, word] = (low | (high << _FOUR)) ^ _EIGHTS
    else:
        blocks["codes"] = words
    return blocks.view(np.uint8).reshape(len(codes), -1)


def unpack(data: Bytes, bits: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes int8 [rows, columns] and scales fp16 [rows, columns / 32] of the blocks ``data`` [rows, bytes a row].

    Raises:
        RunError: gguf's own dequantizer makes other values of the blocks than codes times scales.
    """
    rows = len(data)
    blocks = np.ascontiguousarray(data).view(_LAYOUT[bits]).reshape(-1)
    scale = np.ascontiguousarray(blocks["scale"])
    words = np.empty((len(blocks), BLOCK // 8), np.uint64)
    if bits == 4:
        for word in range(2):
            packed = blocks["codes"][:, word]
            words[:, word], words[:, word + 2] = packed & _LOW, (packed >> _FOUR) & _LOW
        codes = words.view(np.int8) - np.int8(8)
    else:
        words[:] = blocks["codes"]
        codes = words.view(np.int8)
    value = _READERS[bits].dequantize_blocks(blocks.view(np.uint8).reshape(len(blocks), -1))
    if not np.array_equal(value, codes * scale.astype(np.float32)[:, None]):
        raise RunError("gguf makes other values of the blocks than codes times scales")
    return codes.reshape(rows, -1), scale.reshape(rows, -1)


def fp16_scales(grid: Grid, floor: float) -> tuple[Tensor, int]:
    """Scales fp16 [rows, groups] (or [1, 1]) for :func:`pack`, and how many are not exact in fp16.

    Args:
        grid: symmetric.
        floor: smallest scale of the scale format, which a group of zeros has. If it is below fp16's range, such a
            group's scale is written as 0, and :func:`to_grid` gives the floor back.
    """
    scale = grid.scale.reshape(1, 1) if grid.scale.ndim == 1 else grid.scale
    half = scale.to(torch.float16)
    wrong = half.float() != scale.float()
    if not wrong.any():
        return half, 0
    rows, groups = scale.shape
    empty = wrong & (scale.float() == floor)
    empty &= ~grid.codes.reshape(rows, groups, -1).any(-1)
    return half.masked_fill(empty, 0.0), int((wrong & ~empty).sum())


def on_blocks(scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Repeat scales [rows or 1, groups] over the blocks: [rows, columns / 32] (a view where none is repeated)."""
    rows, columns = shape
    scale = scale.repeat_interleave(columns // BLOCK // scale.shape[1], dim=1)
    return scale.expand(rows, -1)


def to_grid(
    codes: NDArray[np.int8], scale: NDArray[np.float16], args: QuantizationArgs, dtype: torch.dtype, floor: float
) -> Grid:
    """The checkpoint's grid of what :func:`unpack` gave: scales of its own shape and dtype.

    Raises:
        RunError: blocks of one group have different scales.
    """
    rows, count = scale.shape
    repeat = (args.group_size or BLOCK) // BLOCK if args.strategy == QuantizationStrategy.GROUP else count
    groups = torch.from_numpy(scale.copy()).reshape(rows, count // repeat, repeat)
    first = groups[:1, :1, :1] if args.strategy == QuantizationStrategy.TENSOR else groups[..., :1]
    if not torch.equal(groups, first.expand_as(groups)):
        raise RunError("blocks of one group have different scales")
    own = first[..., 0].to(dtype)
    own = own.masked_fill(first[..., 0] == 0, floor)
    return Grid(torch.from_numpy(codes), stored_shape(own, args))
