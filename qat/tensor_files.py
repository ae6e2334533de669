"""Folders of safetensors files of any size: read tensor by tensor, write shard by shard.

Neither side holds more than one tensor: reading maps a file, writing appends to it. The library writes a file
from tensors that are all in memory, so the writer here makes the format itself (a length, a JSON header, the bytes:
https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qat.errors import InputError, RunError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER: Mapping[str, str] = MappingProxyType({"format": "pt"})
"""Metadata of a file's header without which transformers does not load it."""
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorFolder(Mapping[str, Tensor]):
    """Every tensor of ``model.safetensors``, or of the shards that its index names, read when it is asked for.

    Attributes:
        directory: where the files are.
        metadata: what the headers of the files say, all in one.

    Args:
        directory: a folder of a model, a quantized checkpoint or an export.

    Raises:
        InputError: a file that is missing or damaged, or a shard that lacks a tensor the index promises.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.metadata: dict[str, str] = {}
        self._file_of: dict[str, Path] = {}
        for file, promised in self._files().items():
            names, metadata = _header_of(file)
            self.metadata |= metadata
            if missing := promised - names:
                raise InputError(f"{file} lacks {min(missing)}, which {INDEX} promises; write the folder again")
            self._file_of |= dict.fromkeys(sorted(promised or names), file)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor on the CPU, mapped from its file: its bytes are read when they are used."""
        with safe_open(self._file_of[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def require(self, name: str) -> Tensor:
        """The tensor, of a folder that must have it.

        Raises:
            InputError: it has none of that name.
        """
        if name not in self:
            file = self.directory / (INDEX if (self.directory / INDEX).is_file() else SINGLE)
            raise InputError(f"{file} lacks {name}; write the folder again")
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def _files(self) -> dict[Path, set[str]]:
        """File -> names that the index promises in it (none: whatever it has)."""
        if not (self.directory / INDEX).is_file():
            return {self.directory / SINGLE: set()}
        weight_map: dict[str, str] = read_json(self.directory / INDEX).get("weight_map", {})
        files: dict[Path, set[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(self.directory / Path(file).name, set()).add(name)
        return files


def write_tensors(
    directory: Path,
    layout: Mapping[str, Tensor],
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_size: str,
    metadata: Mapping[str, str] = HEADER,
) -> None:
    """Write ``model.safetensors``, or shards and their index; each file is read again and compared.

    Args:
        directory: an existing folder.
        layout: every tensor on the meta device, in the order in which they come.
        tensors: the same names and tensors with their numbers.
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
        if sha256(directory / file) != written:
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


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is missing, or no JSON object.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; write the folder again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write the folder again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object; write the folder again")
    return value


def _header_of(path: Path) -> tuple[set[str], dict[str, str]]:
    """Names of the tensors in a file, and its metadata."""
    if not path.is_file():
        raise InputError(f"{path} is missing; write the folder again")
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()), file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); write the folder again") from None


def _write_file(
    path: Path, layout: dict[str, Tensor], arriving: Iterator[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> str:
    """Write one file and return the sha256 of what was written."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in layout.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            digest.update(part)
            file.write(part)
        for expected, tensor in layout.items():
            name, numbers = next(arriving)
            assert (name, numbers.dtype, numbers.shape) == (expected, tensor.dtype, tensor.shape), expected
            flat = numbers.reshape(-1).clone(memory_format=torch.contiguous_format) if _is_strided(numbers) else numbers
            content = flat.reshape(-1).view(torch.uint8).numpy().data
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def _is_strided(tensor: Tensor) -> bool:
    """Whether the bytes do not lie one after the other; torch calls a single number of any stride contiguous."""
    return not tensor.is_contiguous() or tensor.reshape(-1).stride() != (1,)
