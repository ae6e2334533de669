"""Reading folders of safetensors files: a file is mapped, so no more of a tensor is in memory than is looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from qat.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


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
