"""Writing folders of safetensors files with one tensor, or one block of its rows, in memory at a time.

The library writes a file from tensors that are all in memory, so the format is made here (a length, a JSON header, the
bytes: https://huggingface.co/docs/safetensors/index#format), each block put at its place as it comes. A file has the
very bytes that the library would write: the widest dtypes first, so that every tensor is aligned to its numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qat.errors import InputError, RunError
from qat.tensor_files.blocks import BLOCK_BYTES
from qat.tensor_files.reading import INDEX, SINGLE

HEADER: Mapping[str, str] = MappingProxyType({"format": "pt"})
"""Metadata of a file's header without which transformers does not load it."""
_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the format, in the order in which the library lays tensors out."""
_RANKS = {dtype: rank for rank, dtype in enumerate(_NAMES)}


def write_tensors(
    directory: Path,
    layout: Mapping[str, Tensor],
    tensors: Iterable[tuple[str, Iterable[Tensor]]],
    max_shard_size: str,
    metadata: Mapping[str, str] = HEADER,
) -> None:
    """Write ``model.safetensors``, or shards and their index; each file is read again and compared.

    Args:
        directory: an existing folder.
        layout: every tensor on the meta device, in the order in which they come.
        tensors: the same names, each with the blocks of rows that make up its tensor; a whole one is one block.
        max_shard_size: such as ``5GB``.
        metadata: of the header of every file.

    Raises:
        InputError: ``max_shard_size`` is no size.
        RunError: a file does not read back as it was written, which is named.
    """
    shards = _split(layout, parse_size(max_shard_size))
    total, arriving = len(shards), iter(tensors)
    file_of: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if total == 1 else f"model-{number:05}-of-{total:05}.safetensors"
        file_of |= dict.fromkeys(shard, file)
        written = _write_file(directory / file, shard, arriving, metadata)
        if not _reads_back(directory / file, written):
            raise RunError(f"{directory / file} does not read back as it was written; check the disk")
    assert next(arriving, None) is None, "more tensors than the layout has"
    if total > 1:
        size = sum(tensor.nbytes for tensor in layout.values())
        index = {"metadata": {"total_size": size}, "weight_map": file_of}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def parse_size(text: str) -> int:
    """Bytes of a size like ``5GB``, at least one; units are powers of 1000.

    Raises:
        InputError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B)", text.strip(), re.IGNORECASE)
    size = 0 if found is None else int(float(found[1]) * 1000 ** ("B", "KB", "MB", "GB", "TB").index(found[2].upper()))
    if size == 0:
        raise InputError(f"'{text}' is no size; write a number above 0 with KB, MB, GB or TB")
    return size


def _split(layout: Mapping[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """Cut the tensors, in their order, where a file would pass ``largest`` bytes; one above it has its own file."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in layout.items():
        if shards[-1] and size + tensor.nbytes > largest:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


_Piece = tuple[int, int, bytes]
"""What was written: where in the file, how many bytes, their sha256."""


def _write_file(
    path: Path,
    layout: dict[str, Tensor],
    arriving: Iterator[tuple[str, Iterable[Tensor]]],
    metadata: Mapping[str, str],
) -> list[_Piece]:
    """Write one file; the pieces that are returned cover it."""
    header, start_of = _header(layout, metadata)
    pieces: list[_Piece] = []
    with path.open("wb") as file:
        _put(file, memoryview(header), pieces)
        for expected, planned in layout.items():
            name, blocks = next(arriving)
            assert name == expected, f"{name} comes before {expected}"
            file.seek(start_of[name])
            for block in blocks:
                assert (block.dtype, block.shape[1:]) == (planned.dtype, planned.shape[1:]), name
                _put(file, _content(block), pieces)
            assert file.tell() == start_of[name] + planned.nbytes, f"{name} has another size than planned"
    return pieces


def _header(layout: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The start of a file, and where in it each tensor begins."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(layout, key=lambda name: (_RANKS[layout[name].dtype], name)):
        tensor, start, end = layout[name], end, end + layout[name].nbytes
        fields[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + fields[name]["data_offsets"][0] for name in layout}


def _content(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row after row."""
    flat = tensor.reshape(-1)
    if flat.stride() != (1,):  # torch calls a single number of any stride contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def _put(file: BinaryIO, content: memoryview, pieces: list[_Piece]) -> None:
    for start in range(0, len(content), BLOCK_BYTES):
        part = content[start : start + BLOCK_BYTES]
        pieces.append((file.tell(), len(part), hashlib.sha256(part).digest()))
        file.write(part)


def _reads_back(path: Path, written: list[_Piece]) -> bool:
    """Whether a file holds what was written, and nothing else."""
    with path.open("rb") as file:
        for start, size, digest in sorted(written):
            assert file.tell() == start, "pieces that do not cover the file"
            if hashlib.sha256(file.read(size)).digest() != digest:
                return False
        return not file.read(1)
