"""Checks of a model folder's files, made before transformers loads any of them."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from qat.errors import InputError, nearest
from qat.models.loaded import Dtype

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES: dict[str, Dtype] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_CONVERT = (
    "convert it where you trust it, with transformers: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
)


def read_config(folder: str | os.PathLike[str], trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a Hugging Face folder.

    Raises:
        InputError: if it is missing or malformed, of an unknown model type, of a quantized model, or needs
            Python code from the folder without leave to run it.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} has no {CONFIG}; a model folder needs {CONFIG}, {WEIGHTS} and a tokenizer")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a JSON object: {error}") from error
    if kind not in CONFIG_MAPPING and not trust_remote_code:
        if "auto_map" in values:
            raise InputError(
                f"{folder} needs Python code of its own (auto_map in {CONFIG}); "
                "read that code, then allow it with model.trust_remote_code=true"
            )
        hint = nearest(str(kind), CONFIG_MAPPING.keys())
        raise InputError(f"{path}: model_type '{kind}' is unknown to transformers{hint}")
    if "quantization_config" in values:
        method = (values["quantization_config"] or {}).get("quant_method", "unknown")
        raise InputError(f"{folder} is quantized already ({method}); give the float model that it was made from")
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # the strict config classes raise types of their own
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a valid {kind} config: {reason}") from error
    assert isinstance(config, PreTrainedConfig)
    return config


def check_weights(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the weight files of a Hugging Face folder, each one whole.

    Only headers are read: every tensor that a header (or the index of a sharded model) promises must lie in
    a file that is there and as long as its header says.

    Raises:
        InputError: if there are no weights or pickles only, or a file is missing, truncated or malformed.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        tensor_names(folder / WEIGHTS)
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _check_shards(folder)
    for pattern in _PICKLES:
        for path in sorted(folder.glob(pattern)):
            raise InputError(f"{folder} has pickle weights only ({path.name}), which can run code; {_CONVERT}")
    raise InputError(f"{folder} has no weights; expected {WEIGHTS} or {INDEX}")


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors in one safetensors file.

    Raises:
        InputError: if the file is truncated, longer than its header says, or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:  # checks the header and the file's length against it
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        with path.open("rb") as raw:
            if raw.read(40).startswith(b"version https://git-lfs"):
                raise InputError(f"{path} is a Git LFS pointer, not weights; run: git lfs pull") from error
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path} is truncated or malformed ({reason}); copy or download it again") from error


def stored_dtype(files: Iterable[Path]) -> Dtype:
    """The dtype that most numbers of a model have in its weight files; only headers are read.

    ``config.json`` may name another one: what it says is a wish, not checked by who writes the file. Files of
    none of the dtypes that models are loaded in (float64) count as float32.
    """
    numbers: Counter[str] = Counter()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_slice(name)
                numbers[tensor.get_dtype()] += math.prod(tensor.get_shape())
    (most, _), *_ = numbers.most_common(1) or [("F32", 0)]
    return _DTYPES.get(most, "float32")


def _check_shards(folder: Path) -> list[Path]:
    """Check a sharded model: every shard of the index is there, whole, and has the tensors it should."""
    path = folder / INDEX
    try:
        weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a safetensors index with a weight_map; copy or download it again") from error
    for shard in shards:
        if not (folder / shard).is_file():
            raise InputError(f"{folder / shard} is missing; {INDEX} places {_count(weight_map, shard)} tensors in it")
        absent = {name for name, file in weight_map.items() if file == shard} - tensor_names(folder / shard)
        if absent:
            raise InputError(f"{folder / shard} has no tensor '{min(absent)}', which {INDEX} places in it")
    return [folder / shard for shard in shards]


def _count(weight_map: dict[str, str], shard: str) -> int:
    return sum(file == shard for file in weight_map.values())
