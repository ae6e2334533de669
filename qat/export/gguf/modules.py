"""The quantized modules of a file: what its metadata says of them, and how they are read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from gguf import GGUFReader, ReaderTensor

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.export.gguf.blocks import BLOCK, TYPES, block_bits, to_grid, unpack
from qat.export.gguf.tensors import Names, floor_of, row_order
from qat.grid import Grid
from qat.quantized import Lazy, ReadModule

MODULES_KEY = "qat.modules"
"""Metadata key: JSON, module name -> what the checkpoint's grid needs besides the blocks."""

_PIECE = 1 << 18  # numbers decoded at a time: they stay in the cache


def module_table(checkpoint: QuantizedCheckpoint) -> str:
    """The value of :data:`MODULES_KEY`."""
    names = Names(checkpoint.config)
    table = {
        name: {
            "tensor": names(f"{name}.weight"),
            "weights": entry.args.model_dump(mode="json", exclude_none=True),
            "scale_dtype": str(entry.layout.scale.dtype).removeprefix("torch."),
            "scale_floor": floor_of(checkpoint, entry),
            "interleaved_heads": names.interleaved_heads(f"{name}.weight"),
        }
        for name, entry in checkpoint.weights.items()
    }
    return json.dumps(table, sort_keys=True)


def read_modules(path: Path) -> Mapping[str, ReadModule]:
    """Every module of a file, by gguf's own reader; each is decoded when it is asked for, and not kept.

    Raises:
        InputError: a file that is missing, damaged, or of another program.
        RunError: (at access) gguf makes other values of a module than its integers have.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; export again")
    try:
        reader = GGUFReader(path)
        field = reader.get_field(MODULES_KEY)
        table: dict[str, dict[str, Any]] | None = None if field is None else json.loads(field.contents())
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path} is damaged ({error}); export again") from None
    if table is None:
        raise InputError(f"{path} has no {MODULES_KEY}: it was not exported by qat")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if lacking := sorted({entry["tensor"] for entry in table.values()} - tensors.keys()):
        raise InputError(f"{path} lacks {lacking[0]}; export again")
    return Lazy({name: partial(_read, name, entry, tensors[entry["tensor"]]) for name, entry in table.items()})


def _read(name: str, entry: dict[str, Any], tensor: ReaderTensor) -> ReadModule:
    try:
        return ReadModule(_read_grid(entry, tensor))
    except RunError as error:
        raise RunError(f"{name}: {error}") from None


def _read_grid(entry: dict[str, Any], tensor: ReaderTensor) -> Grid:
    args = QuantizationArgs(**entry["weights"])
    bits = block_bits(args)
    if tensor.tensor_type != TYPES[bits]:
        raise RunError(f"its blocks are {tensor.tensor_type.name}, and its codes have {args.num_bits} bits")
    columns, rows = (int(size) for size in tensor.shape)
    codes = np.empty((rows, columns), np.int8)
    scale = np.empty((rows, columns // BLOCK), np.float16)
    order = row_order(rows, entry["interleaved_heads"])
    step = max(1, _PIECE // columns)
    for start in range(0, rows, step):
        piece = slice(start, min(start + step, rows))
        target = piece if order is None else order[piece].numpy()
        codes[target], scale[target] = unpack(np.asarray(tensor.data[piece]), bits)
    return to_grid(codes, scale, args, getattr(torch, entry["scale_dtype"]), entry["scale_floor"])
