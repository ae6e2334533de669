"""Read back a folder of safetensors with a ``config.json``, whole or with a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from qat.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        InputError: it is missing or no JSON object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"{directory} is no model folder: it has no config.json")
    return _json_object(path)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of ``model.safetensors``, or of the shards that its index names.

    Raises:
        InputError: a file that is missing or damaged, or a shard that lacks a tensor the index promises.
    """
    if not (directory / INDEX).is_file():
        return _load(directory / SINGLE)
    weight_map: dict[str, str] = _json_object(directory / INDEX).get("weight_map", {})
    shards = {file: _load(directory / Path(file).name) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise InputError(f"{directory / file} lacks {name}, which {INDEX} promises; export again")
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is missing; export again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); export again") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); export again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object; export again")
    return value
