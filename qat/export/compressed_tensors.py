"""compressed-tensors: the format that vLLM, SageMaker LMI and transformers load from ``config.json``.

Weight-only integers of 2 to 8 bits are ``pack-quantized`` (int32 words), with quantized activations they are
``int-quantized`` (int8). Nothing is quantized again: the codes of the checkpoint are packed.

What transformers 5.23 with compressed-tensors 0.20 makes of the files (measured by the tests of the engine):

- symmetric weights, zero points beside int8 codes, dynamic and static activations, several groups: a plain
  ``from_pretrained`` is exact;
- packed zero points and quantized embeddings: it fails unless it dequantizes while loading, which it does
  right for one weight-only group. ``config.json`` then says ``dequantize: true``, so a plain
  ``from_pretrained`` works; the values are computed in the dtype of the scales;
- packed zero points in one of several groups: it cannot load them. The file is still a valid one, which
  compressed-tensors itself reads;
- quantized embeddings beside another scheme: refused here, since no engine is known to take them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationConfig
from huggingface_hub import save_torch_state_dict, split_torch_state_dict_into_shards
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint, ReadModule
from qat.errors import InputError, RunError
from qat.export.base import Exporter
from qat.export.ct_config import CONFIG_KEY, group_of, packs_zero_points, parse_config, quantization_config
from qat.export.ct_tensors import compress, compressed_bytes, decompress, to_grid, unpackable
from qat.export.files import read_config, read_tensors


@dataclass(frozen=True)
class CompressedTensorsExporter(Exporter):
    """``pack-quantized`` and ``int-quantized`` files with config and tokenizer beside them.

    Args:
        max_shard_size: larger weights are split into files of at most this size, with an index; like "5GB".

    Raises:
        InputError: a size that cannot be read.
    """

    max_shard_size: str = "5GB"

    def __post_init__(self) -> None:
        try:
            split_torch_state_dict_into_shards({}, max_shard_size=self.max_shard_size)
        except ValueError:
            raise InputError(
                f"max_shard_size '{self.max_shard_size}' is no size; write a number with KB, MB, GB or TB"
            ) from None

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """See the base class and the list at the top of this file."""
        if checkpoint.conv1d:
            raise InputError(
                f"compressed_tensors cannot hold {checkpoint.conv1d[0]}: transformers builds it as Conv1D, "
                "which no compressed-tensors loader takes; run without an export: export=[]"
            )
        for name, entry in checkpoint.weights.items():
            if not unpackable(entry):
                raise InputError(
                    f"compressed_tensors cannot hold {name}: the library fails to unpack grouped 4-bit zero "
                    f"points of {len(entry.grid.codes)} rows (9 are needed); make it symmetric or ignore it"
                )
        if _has_embedding(checkpoint) and not _is_one_weight_only_group(quantization_config(checkpoint)):
            raise InputError(
                "compressed_tensors holds a quantized embedding only where every module has the same "
                "weight-only scheme, since no engine loads other mixes; leave the embedding float or give "
                "every module one scheme"
            )

    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write ``config.json`` and the weights."""
        config = {**checkpoint.config, CONFIG_KEY: _config_entry(checkpoint)}
        (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        tensors = dict(checkpoint.rest)
        for name, entry in checkpoint.weights.items():
            tensors |= {f"{name}.{local}": tensor for local, tensor in compress(entry).items()}
        save_torch_state_dict(tensors, directory, max_shard_size=self.max_shard_size)

    def weight_bytes(self, checkpoint: QuantizedCheckpoint) -> int:
        """Bytes of all tensors as they will lie in the files."""
        rest = sum(tensor.nbytes for tensor in checkpoint.rest.values())
        return rest + sum(compressed_bytes(entry) for entry in checkpoint.weights.values())

    def read(self, directory: Path) -> dict[str, ReadModule]:
        """Read every module with compressed-tensors' own code.

        Raises:
            InputError: a file that is missing or damaged.
            RunError: compressed-tensors decompresses a module to other values than its integers have.
        """
        config, modules, _ = read_modules(Path(directory))
        read = {}
        for name, local in modules.items():
            scheme = group_of(config, name)
            grid = to_grid(local, scheme)
            if not torch.equal(decompress(local, scheme)["weight"], grid.value()):
                raise RunError(f"{name}: compressed-tensors makes other values of it than its integers have")
            read[name] = ReadModule(grid, local.get("input_scale"), local.get("input_zero_point"))
        return read


def read_modules(
    directory: Path,
) -> tuple[QuantizationConfig, dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Read an export: its config, the quantized modules' tensors by local name, and all other tensors.

    Raises:
        InputError: no compressed-tensors export, or a file that is missing or damaged.
    """
    config = parse_config(read_config(directory))
    rest = read_tensors(directory)
    names = [name.removesuffix(".weight_scale") for name in rest if name.endswith(".weight_scale")]
    modules: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for name in list(rest):
        module, _, local = name.rpartition(".")
        if module in modules and (local == "weight" or local.startswith(("weight_", "input_"))):
            modules[module][local] = rest.pop(name)
    return config, modules, rest


def _config_entry(checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
    config = quantization_config(checkpoint)
    entry: dict[str, Any] = {"version": version("compressed-tensors"), **config.model_dump(mode="json")}
    packed = any(packs_zero_points(group) for group in config.config_groups.values())
    if _is_one_weight_only_group(config) and (packed or _has_embedding(checkpoint)):
        entry["dequantize"] = True
    return entry


def _has_embedding(checkpoint: QuantizedCheckpoint) -> bool:
    return any(entry.kind == "Embedding" for entry in checkpoint.weights.values())


def _is_one_weight_only_group(config: QuantizationConfig) -> bool:
    groups = list(config.config_groups.values())
    return len(groups) == 1 and groups[0].input_activations is None
