"""Packing of codes into int32 words, the layout of compressed-tensors' ``pack-quantized``, at memory speed.

Codes lie back to back from the lowest bit on, each raised by ``2**(bits - 1)``. The library's own ``pack_to_int32``
scatters code by code; where the width divides a byte the same words come from three folds of eight codes at a time.
Files are read back by the library's own unpacking, so a word packed wrongly cannot pass.
"""

from __future__ import annotations

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from torch import Tensor

_CHUNK = 1 << 18
"""Codes folded at once: small enough to stay in a core's own cache between the passes."""


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Words of each row.

    Args:
        codes: int8 [rows, columns], signed; on the meta device only the shape of the result is made.
        bits: 2 to 8.

    Returns:
        int32 [rows, ceil(columns * bits / 32)].

    Example:
        >>> pack_codes(torch.tensor([[-8, 7, 0, 0, 0, 0, 0, 0]], dtype=torch.int8), bits=4)
        tensor([[-2004318080]], dtype=torch.int32)
    """
    rows, columns = codes.shape
    words = -(-columns * bits // 32)
    if codes.is_meta:
        return torch.empty(rows, words, dtype=torch.int32, device="meta")
    if 8 % bits or (columns * bits) % 32:
        packed: Tensor = pack_to_int32(codes, bits)
        return packed.clone()  # of a view, so that its memory can be written as it is
    flat = codes.contiguous().view(-1)
    out = torch.empty(rows * words, dtype=torch.int32)
    codes_a_word = 32 // bits
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        _fold(part, bits, out[start // codes_a_word :][: part.numel() // codes_a_word])
    return out.view(rows, words)


def _fold(codes: Tensor, bits: int, out: Tensor) -> None:
    """Pack ``codes`` int8 [n] into ``out`` int32 [n * bits / 32]: bytes to pairs, pairs to fours, fours to eights."""
    if bits == 8:
        torch.bitwise_xor(codes.view(torch.int32), _repeat(0x80, 8, 32), out=out)
        return
    x = torch.bitwise_and(codes.view(torch.int64), _repeat((1 << bits) - 1, 8, 64))
    x.bitwise_xor_(_repeat(1 << (bits - 1), 8, 64))
    for width in (8, 16, 32):
        x.bitwise_or_(x >> (width - bits * width // 8))
        x.bitwise_and_(_repeat((1 << (2 * bits * width // 8)) - 1, 2 * width, 64))
    narrow = {2: torch.int16, 4: torch.int32}[bits]
    out.copy_(x.to(narrow).view(torch.int32))


def _repeat(field: int, width: int, total: int) -> int:
    """``field`` once every ``width`` bits, as a signed integer of ``total`` bits."""
    value = sum(field << start for start in range(0, total, width))
    return value - (1 << total) if value >> (total - 1) else value
