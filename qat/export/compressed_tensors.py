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
- quantized embeddings beside another scheme: refused here, since no engine is known to take them;
- ``kv_cache_scheme``: keys and values are rounded as in training, bit for bit, where nothing is dequantized while
  loading. Beside what needs that it would be ignored in silence, and is refused here. vLLM 0.32 takes FP8 only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from compressed_tensors.quantization import QuantizationConfig
from torch import Tensor

from qat.checkpoint import KV_PARTS, QuantizedCheckpoint, read_kv_scales
from qat.errors import InputError, RunError
from qat.export.ct_config import group_of, kv_cache_scheme, packs_zero_points, parse_config, quantization_config
from qat.export.ct_tensors import compress, decompress, pieces, required, to_grid, unpackable
from qat.export.folder import CONFIG_KEY, FolderExporter, read_config
from qat.grid import Grid
from qat.quantized import KVScales, Lazy, QuantizedWeight, ReadModule
from qat.tensor_files import TensorFolder


@dataclass(frozen=True)
class CompressedTensorsExporter(FolderExporter):
    """``pack-quantized`` and ``int-quantized`` files with config and tokenizer beside them.

    Args:
        kv_cache: ``scheme`` writes rounded keys and values as ``kv_cache_scheme``; ``engine`` says nothing of them and
            leaves it to an engine that is told otherwise (vLLM on a GPU: ``--kv-cache-dtype int8_per_token_head``).

    Raises:
        InputError: an option with another value.
    """

    kv_cache: Literal["scheme", "engine"] = "scheme"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_cache not in ("scheme", "engine"):
            raise InputError(f"compressed_tensors: kv_cache '{self.kv_cache}' is not one of scheme, engine")

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """See the base class and the list at the top of this file."""
        checkpoint = self._written(checkpoint)
        if checkpoint.conv1d:
            raise InputError(
                f"compressed_tensors cannot hold {checkpoint.conv1d[0]}: transformers builds it as Conv1D, "
                "which no compressed-tensors loader takes; a run without an export is export=[]"
            )
        for name, entry in checkpoint.weights.items():
            if not unpackable(entry):
                raise InputError(
                    f"compressed_tensors cannot hold {name}: the library fails to unpack grouped 4-bit zero "
                    f"points of {entry.shape[0]} rows (9 are needed); make it symmetric or ignore it"
                )
        if _has_embedding(checkpoint) and not _is_one_weight_only_group(quantization_config(checkpoint)):
            raise InputError(
                "compressed_tensors holds a quantized embedding only where every module has the same "
                "weight-only scheme, since no engine loads other mixes; leave the embedding float or give "
                "every module one scheme"
            )
        if kv_cache_scheme(checkpoint) is not None and _config_entry(checkpoint).get("dequantize"):
            raise InputError(
                "compressed_tensors cannot hold a kv_cache beside packed zero points or a quantized embedding: "
                "transformers dequantizes those while loading, and then ignores kv_cache_scheme; make the weights "
                "symmetric and leave embeddings float"
            )

    def config(self, checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
        """The model's own, with a ``quantization_config``."""
        return {**checkpoint.config, CONFIG_KEY: _config_entry(self._written(checkpoint))}

    def module_tensors(self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight) -> dict[str, Tensor]:
        """See :func:`qat.export.ct_tensors.compress`."""
        return {f"{name}.{local}": tensor for local, tensor in compress(entry).items()}

    def cache_tensors(self, checkpoint: QuantizedCheckpoint) -> Mapping[str, Tensor]:
        """``k_scale`` and ``v_scale`` of every attention."""
        return checkpoint.kv_tensors

    def _written(self, checkpoint: QuantizedCheckpoint) -> QuantizedCheckpoint:
        """What the files say: nothing of keys and values that are left to the engine.

        Raises:
            InputError: those have learned scales, which no engine would know then.
        """
        if self.kv_cache == "scheme" or checkpoint.scheme.kv_cache is None:
            return checkpoint
        if not checkpoint.scheme.kv_cache.dynamic:
            raise InputError(
                "export.compressed_tensors.kv_cache=engine leaves out the scales of keys and values, and these were "
                "calibrated or learned; quantize with a dynamic scheme.kv_cache, or set it to scheme"
            )
        return replace(checkpoint, scheme=replace(checkpoint.scheme, kv_cache=None))

    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """Every module as compressed-tensors' own code reads it.

        Raises:
            InputError: a file that is missing or damaged.
            RunError: at access: compressed-tensors decompresses a module to other values than its integers have.
        """
        config, modules, _ = read_modules(Path(directory))
        return Lazy({name: partial(_read_module, config, name, local) for name, local in modules.items()})

    def read_kv_cache(self, directory: Path) -> Mapping[str, KVScales]:
        """See the base class.

        Raises:
            InputError: a file that is missing or damaged, or one of two scales that is missing.
        """
        tensors = TensorFolder(Path(directory))
        ends = tuple(f".{part}" for part in KV_PARTS)
        names = dict.fromkeys(name.rpartition(".")[0] for name in tensors if name.endswith(ends))
        return {name: read_kv_scales(tensors, name) for name in names}


def read_modules(
    directory: Path,
) -> tuple[QuantizationConfig, Mapping[str, Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """Read an export: its config, the quantized modules' tensors by local name, and all other tensors.

    Raises:
        InputError: no compressed-tensors export, or a file that is missing or damaged.
    """
    config = parse_config(read_config(directory))
    tensors = TensorFolder(directory)
    names = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    modules: dict[str, dict[str, Callable[[], Tensor]]] = {name: {} for name in names}
    rest = {}
    for name in tensors:
        module, _, local = name.rpartition(".")
        if module in modules and (local == "weight" or local.startswith(("weight_", "input_"))):
            modules[module][local] = partial(tensors.__getitem__, name)
        else:
            rest[name] = partial(tensors.__getitem__, name)
    for module, local_tensors in modules.items():
        for local in required(group_of(config, module)):
            if local not in local_tensors:
                tensors.require(f"{module}.{local}")
    return config, {name: Lazy(local) for name, local in modules.items()}, Lazy(rest)


def _read_module(config: QuantizationConfig, name: str, tensors: Mapping[str, Tensor]) -> ReadModule:
    scheme, local = group_of(config, name), dict(tensors)
    grids = []
    for piece in pieces(local, scheme):
        grids.append(to_grid(piece, scheme))
        if not torch.equal(decompress(piece, scheme)["weight"], grids[-1].value()):
            raise RunError(f"{name}: compressed-tensors makes other values of it than its integers have")
    zero_point = grids[0].zero_point
    if zero_point is not None and len(zero_point) > 1:
        zero_point = torch.cat([grid.zero_point for grid in grids if grid.zero_point is not None])
    grid = Grid(torch.cat([grid.codes for grid in grids]), local["weight_scale"], zero_point)
    return ReadModule(grid, local.get("input_scale"), local.get("input_zero_point"))


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
