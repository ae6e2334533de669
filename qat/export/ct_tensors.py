"""Tensors of one module under compressed-tensors' local names (``weight_packed``, ``weight_scale``, ...)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import QuantizationScheme
from torch import Tensor

from qat.export.ct_config import module_scheme, packs_zero_points
from qat.export.pack import pack_codes
from qat.grid import Grid
from qat.quantized import QuantizedWeight

_PIECE = 1 << 24
"""Numbers unpacked at once."""
_ALIGNED = 32
"""Rows whose zero points fill whole words, at any width."""


def compress(entry: QuantizedWeight) -> dict[str, Tensor]:
    """What the file holds of one module: its integers as they are, packed where the format packs them.

    On the meta device (:meth:`~qat.quantized.QuantizedWeight.without_numbers`) only shapes and dtypes.
    """
    scheme, grid, bits = module_scheme(entry), entry.grid, entry.args.num_bits
    zero_point = grid.zero_point
    if zero_point is not None and packs_zero_points(scheme):
        zero_point = pack_codes(zero_point.t(), bits).t().clone(memory_format=torch.contiguous_format)
    local = {
        "weight_scale": grid.scale,
        "weight_zero_point": zero_point,
        "input_scale": entry.input_scale,
        "input_zero_point": entry.input_zero_point,
    }
    if scheme.format == CompressionFormat.pack_quantized:
        local["weight_packed"] = pack_codes(grid.codes, bits)
        local["weight_shape"] = torch.tensor(grid.codes.shape)
    else:
        local["weight"] = grid.codes
    return {name: tensor for name, tensor in local.items() if tensor is not None}


def required(scheme: QuantizationScheme) -> tuple[str, ...]:
    """Local names that the file must have of a module of ``scheme``."""
    assert scheme.weights is not None
    packed = scheme.format == CompressionFormat.pack_quantized
    zero_point = () if scheme.weights.symmetric else ("weight_zero_point",)
    return ("weight_scale", *(("weight_packed", "weight_shape") if packed else ("weight",)), *zero_point)


def to_grid(local: dict[str, Tensor], scheme: QuantizationScheme) -> Grid:
    """Integers and scale of one module, unpacked by the library's own function.

    Args:
        local: the module's tensors as they lie in the file.
        scheme: its config group, with its format.
    """
    assert scheme.weights is not None
    bits, scale, zero_point = scheme.weights.num_bits, local["weight_scale"], local.get("weight_zero_point")
    if scheme.format != CompressionFormat.pack_quantized:
        return Grid(local["weight"], scale, zero_point)
    shape = torch.Size(local["weight_shape"].tolist())
    if zero_point is not None and packs_zero_points(scheme):
        zero_point = unpack_from_int32(zero_point, bits, torch.Size((shape[0], scale.shape[-1])), 0)
    return Grid(unpack_from_int32(local["weight_packed"], bits, shape), scale, zero_point)


def pieces(local: dict[str, Tensor], scheme: QuantizationScheme) -> Iterator[dict[str, Tensor]]:
    """The module as modules of some of its rows each: unpacking takes several times the memory of what it unpacks.

    Args:
        local: the module's tensors as they lie in the file.
        scheme: its config group, with its format.
    """
    packed = scheme.format == CompressionFormat.pack_quantized
    rows, columns = local["weight_shape"].tolist() if packed else local["weight"].shape
    step = max(_ALIGNED, _PIECE // max(columns, 1) // _ALIGNED * _ALIGNED)
    starts = [*range(0, rows - _ALIGNED, step)] or [
        0
    ]  # a last piece of less than a word's rows goes with the one before
    for start, end in zip(starts, [*starts[1:], rows], strict=True):
        piece = {name: tensor if len(tensor) == 1 else tensor[start:end] for name, tensor in local.items()}
        if packed:
            piece["weight_shape"] = torch.tensor([end - start, columns])
        if "weight_zero_point" in local and packs_zero_points(scheme):
            assert scheme.weights is not None
            bits = scheme.weights.num_bits
            piece["weight_zero_point"] = local["weight_zero_point"][start * bits // 32 : -(-end * bits // 32)]
        yield piece


def decompress(local: dict[str, Tensor], scheme: QuantizationScheme) -> dict[str, Tensor]:
    """What compressed-tensors' own decompressor makes of one module, in float32.

    The library computes in the dtype of the scale. Widened to float32, which loses nothing, a 16-bit scale
    gives the exact product instead of one rounded to 16 bits.

    Args:
        local: the module's tensors as they lie in the file.
        scheme: its config group, with its format.

    Returns:
        ``weight`` float32[out, in], ``weight_scale``, and the unpacked ``weight_zero_point`` if there is one.
    """
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    wide = {**local, "weight_scale": local["weight_scale"].float()}
    state: dict[str, Tensor] = compressor.decompress(wide, scheme)
    return state


def unpackable(entry: QuantizedWeight) -> bool:
    """Whether compressed-tensors 0.20 can unpack the zero points again.

    It views 4-bit words as bytes, which torch refuses for a single row of words of several groups.
    """
    layout, bits = entry.layout, entry.args.num_bits
    one_word = packs_zero_points(module_scheme(entry)) and len(layout.codes) * bits <= 32
    return not (one_word and bits == 4 and layout.scale.shape[-1] > 1)
