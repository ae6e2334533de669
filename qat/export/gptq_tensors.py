"""The tensors of GPTQ's checkpoint layouts, packed and read back: pure functions.

Of a weight [out, in] with ``g`` inputs a group, integers raised by ``2**(bits-1)`` to be unsigned::

    qweight  int32 [in * bits / 32, out]         codes along the inputs
    qzeros   int32 [in / g, out * bits / 32]     zero points along the outputs; in v1 **minus one**
    scales   float16 [in / g, out]
    g_idx    int32 [in]                          group of every input

The words are those of compressed-tensors, turned by 90 degrees: one stream of bits, lowest first, ``bits`` words for
32 codes. With 2, 4 and 8 bits no code crosses a word, with 3 bits the eleventh and the twenty-second do, as in AutoGPTQ
and GPTQModel. Symmetric weights are v1 (``gptq``), which every loader knows; asymmetric ones v2 (``gptq_v2``), since v1
would store a zero point of 0 as -1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from torch import Tensor

from qat.export.pack import pack_codes
from qat.grid import Grid

WORD = 32
BITS = (2, 3, 4, 8)


def pack(grid: Grid, bits: int) -> dict[str, Tensor]:
    """What the file holds of one module, by local name; on the meta device only shapes and dtypes.

    Args:
        grid: rows and columns are multiples of 32, the scale is exact in float16.
        bits: of the codes, one of :data:`BITS`.
    """
    return {
        "qweight": pack_codes(grid.codes, bits).t().contiguous(),
        "scales": grid.scale.t().to(torch.float16).contiguous(),
        **implied(grid, bits),
    }


def implied(grid: Grid, bits: int) -> dict[str, Tensor]:
    """The tensors that engines read though codes and scale say it all, if there is no zero point."""
    columns, n_groups = grid.codes.shape[1], grid.scale.shape[1]
    zeros = torch.full_like(grid.scale, -1, dtype=torch.int8) if grid.zero_point is None else grid.zero_point
    return {
        "qzeros": pack_codes(zeros.t(), bits),
        "g_idx": torch.arange(columns, dtype=torch.int32) // (columns // n_groups),
    }


def unpack(local: Mapping[str, Tensor], bits: int, symmetric: bool, scale_dtype: torch.dtype) -> Grid:
    """The inverse of :func:`pack`, with compressed-tensors' own unpacking."""
    n_groups, rows = local["scales"].shape
    shape = torch.Size((rows, len(local["g_idx"])))
    codes = unpack_from_int32(local["qweight"].t(), bits, shape)
    scale = local["scales"].t().contiguous().to(scale_dtype)
    if symmetric:
        return Grid(codes, scale)
    zeros = unpack_from_int32(local["qzeros"], bits, torch.Size((n_groups, rows)))
    return Grid(codes, scale, zeros.t().contiguous())
