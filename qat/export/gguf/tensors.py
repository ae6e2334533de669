"""Which tensors a GGUF file holds: names, types, row order, and their bytes in pieces as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TensorNameMap, get_tensor_name_map
from numpy.typing import NDArray
from torch import Tensor

from qat import grid
from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.export.gguf.blocks import TYPES, block_bits, fp16_scales, on_blocks, pack, packed_bytes
from qat.export.gguf.model import Architecture, architecture, block_count, heads, rope_factors
from qat.quantized import QuantizedWeight

RestType = Literal["f16", "f32"]

_PIECE = 1 << 20  # numbers converted at a time: a large embedding is never in memory twice
_F32 = GGMLQuantizationType.F32
_FLOATS = {
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    _F32: torch.float32,
}
_IGNORED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # masks and frequencies, kept by old files


@dataclass(frozen=True)
class Placed:
    """One tensor of the file.

    Attributes:
        name: its GGUF name.
        shape: as in torch.
        type: its GGML type.
        nbytes: of its data.
        pieces: reads it and gives its data, in order.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    nbytes: int
    pieces: Callable[[], Iterator[NDArray[Any]]]

    def tofile(self, file: IO[bytes]) -> None:
        """Write the data: what :meth:`gguf.GGUFWriter.write_tensor_data` asks of an array."""
        for piece in self.pieces():
            file.write(piece.data)  # numpy's own tofile would not say that a disk is full

    def announce(self, writer: GGUFWriter) -> None:
        """Add name, shape and type to the file's head."""
        writer.add_tensor_info(self.name, self.shape, np.dtype(np.float32), self.nbytes, raw_dtype=self.type)


class InexactScales(Exception):
    """Scales of a module that fp16 cannot hold; the exporter says what to do."""


class Names:
    """GGUF names and row orders of one model's tensors.

    Raises:
        InputError: the architecture is not supported.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.architecture: Architecture = architecture(config)
        self._map: TensorNameMap = get_tensor_name_map(self.architecture.arch, block_count(config))
        self._heads = heads(config)

    def __call__(self, name: str) -> str:
        """GGUF name of a ``state_dict`` name.

        Raises:
            InputError: llama.cpp's graph has no such tensor.
        """
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            arch = self.architecture.arch.name
            raise InputError(f"gguf cannot hold {name}: llama.cpp's {arch} graph has no such tensor")
        return found

    def interleaved_heads(self, name: str) -> int | None:
        """Number of heads whose rows are interleaved in the file; None where rows keep their order."""
        projection = name.rsplit(".", 2)[-2] if "." in name else name
        if not self.architecture.interleaved or projection not in ("q_proj", "k_proj"):
            return None
        return self._heads[projection == "k_proj"]


def row_order(rows: int, interleaved: int | None) -> Tensor | None:
    """Row ``i`` of the file is row ``order[i]`` of the checkpoint; None for the same order.

    transformers rotates the halves of a head (row ``j`` with ``j + d / 2``), llama.cpp's Llama neighbours: the
    ``permute`` of its converter.
    """
    if interleaved is None:
        return None
    return torch.arange(rows).reshape(interleaved, 2, -1).transpose(1, 2).reshape(rows)


def floor_of(checkpoint: QuantizedCheckpoint, entry: QuantizedWeight) -> float:
    """Smallest scale of the module's scale format: that of a group of zeros."""
    bits, symmetric = entry.args.num_bits, bool(entry.args.symmetric)
    return grid.scale_format(checkpoint.scheme.scale_format, bits, symmetric).floor


def plan(checkpoint: QuantizedCheckpoint, rest: RestType) -> list[Placed]:
    """Every tensor of the file, in its order; nothing quantized is read yet.

    Args:
        checkpoint: what is exported.
        rest: ``f16`` gives each unquantized matrix the smallest of F16, BF16 and F32 that holds it exactly.

    Raises:
        InputError: a tensor that llama.cpp's graph does not have.
    """
    names = Names(checkpoint.config)
    placed = [_quantized(checkpoint, names, name) for name in checkpoint.weights]
    placed += [_unquantized(checkpoint, names, name, rest) for name in rest_names(checkpoint)]
    factors = rope_factors(checkpoint.config)
    if factors is not None:
        data = factors.numpy()
        placed.append(Placed("rope_freqs.weight", tuple(factors.shape), _F32, data.nbytes, lambda: iter([data])))
    return sorted(placed, key=_position)


def rest_names(checkpoint: QuantizedCheckpoint) -> list[str]:
    """Unquantized tensors that belong into the file."""
    return [name for name in checkpoint.rest if not name.endswith(_IGNORED)]


def always_f32(name: str, dimensions: int) -> bool:
    """Whether llama.cpp takes the tensor of this GGUF name in float32 only."""
    return dimensions == 1 or name.endswith("_norm.weight") or name == "position_embd.weight"


def _quantized(checkpoint: QuantizedCheckpoint, names: Names, name: str) -> Placed:
    entry = checkpoint.weights[name]
    shape, bits = tuple(entry.shape), block_bits(entry.args)
    order = row_order(shape[0], names.interleaved_heads(f"{name}.weight"))

    def pieces() -> Iterator[NDArray[Any]]:
        own = entry.grid
        scale, inexact = fp16_scales(own, floor_of(checkpoint, entry))
        if inexact:
            raise InexactScales(name)
        scale = on_blocks(scale, shape)
        for rows in _row_pieces(shape):
            taken = rows if order is None else order[rows]
            yield pack(own.codes[taken].numpy(), scale[taken].numpy(), bits)

    return Placed(names(f"{name}.weight"), shape, TYPES[bits], packed_bytes(shape, bits), pieces)


def _unquantized(checkpoint: QuantizedCheckpoint, names: Names, name: str, rest: RestType) -> Placed:
    tensor = checkpoint.rest[name]
    shape, target = tuple(tensor.shape), names(name)
    order = row_order(shape[0], names.interleaved_heads(name))
    is_norm = target.endswith("_norm.weight")
    offset = names.architecture.norm_offset if is_norm else 0.0
    whole = rest == "f32" or always_f32(target, len(shape))
    kind = _F32 if whole else _smallest_exact(tensor)

    def pieces() -> Iterator[NDArray[Any]]:
        own = checkpoint.rest[name]
        for rows in _row_pieces(shape):
            piece = own[rows if order is None else order[rows]]
            yield _array(piece.float() + offset if offset else piece.to(_FLOATS[kind]))

    return Placed(target, shape, kind, tensor.numel() * _FLOATS[kind].itemsize, pieces)


def _smallest_exact(tensor: Tensor) -> GGMLQuantizationType:
    for kind, dtype in _FLOATS.items():
        if tensor.dtype == dtype or all(
            torch.equal(piece.to(dtype).to(tensor.dtype), piece)
            for piece in (tensor[rows] for rows in _row_pieces(tuple(tensor.shape)))
        ):
            return kind
    raise InputError(f"a tensor of dtype {tensor.dtype} fits no GGUF type: use float32, bfloat16 or float16")


def _row_pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = shape[0]
    step = max(1, _PIECE * rows // max(1, int(np.prod(shape))))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _array(tensor: Tensor) -> NDArray[Any]:
    """numpy has no bfloat16: its bits do."""
    tensor = tensor.contiguous()
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _position(placed: Placed) -> tuple[int, str]:
    """Blocks in their order, what is not of a block before them."""
    part = placed.name.split(".")
    return (int(part[1]) + 1 if part[0] == "blk" else 0, placed.name)
