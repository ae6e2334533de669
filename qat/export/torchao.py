"""torchao: safetensors of torchao's own tensors with the learned scales, which transformers loads by ``TorchAoConfig``.

scheme                                                            tensor
weight-only, 2 to 8 bits, any granularity and zero points         IntxUnpackedToInt8Tensor
symmetric channel weights, INT8 input, dynamic symmetric a token  Int8Tensor, an INT8 x INT8 product

Not held, with what is missing:

- static input activations: torchao's Int8Tensor has a place for the scale, transformers 5.23 does not read it back;
- rounded keys and values: torchao's tensors are weights;
- other pairs of weights and activations: torchao multiplies integers for channel weights only, and its tensor for
  grouped weights rounds inputs asymmetrically.

Codes are int8 each whatever their bits: the format is for running and training on in torchao, not for small files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchao.core.config import AOBaseConfig, config_to_dict
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict, unflatten_tensor_state_dict
from torchao.quantization import (
    FqnToConfig,
    Int8DynamicActivationInt8WeightConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    PerAxis,
    PerGroup,
)
from torchao.quantization.quant_primitives import MappingType

from qat.checkpoint import QuantizedCheckpoint
from qat.convert import int8_tensor, intx_tensor
from qat.errors import InputError, RunError
from qat.export.base import refuse_kv_cache
from qat.export.folder import CONFIG_KEY, FolderExporter, read_config, unquantized_modules
from qat.grid import Grid
from qat.quantized import Lazy, QuantizedWeight, ReadModule
from qat.tensor_files import HEADER, TensorFolder

METADATA = "qat"
"""Key of the safetensors header for what torchao's tensors do not say: the dtype of the scales, and symmetry."""


@dataclass(frozen=True)
class TorchaoExporter(FolderExporter):
    """torchao's flattened tensors, config and tokenizer."""

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """See the base class and the list at the top of this file."""
        refuse_kv_cache(checkpoint, "torchao", "its tensors are weights, and its config says nothing of a cache")
        for name, entry in checkpoint.weights.items():
            if name in checkpoint.conv1d:
                raise InputError(
                    f"torchao cannot hold {name}: transformers builds it as Conv1D, for which torchao has no tensor"
                )
            if _kind(entry) is None:
                raise InputError(f"torchao cannot hold {name}: {_reason(entry)}")

    def config(self, checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
        """The model's own, with a ``quantization_config``."""
        return {**checkpoint.config, CONFIG_KEY: _quantization_config(checkpoint)}

    def metadata(self, checkpoint: QuantizedCheckpoint) -> Mapping[str, str]:
        """How torchao makes its tensors of those in the files, as its own code writes it."""
        state = checkpoint.rest_layout
        modules = {}
        for name, entry in checkpoint.weights.items():
            state[f"{name}.weight"] = _ao_tensor(checkpoint, entry.without_numbers())
            layout = entry.layout
            modules[name] = {
                "scale_dtype": str(layout.scale.dtype).removeprefix("torch."),
                "scale_shape": list(layout.scale.shape),
                "symmetric": layout.zero_point is None,
            }
        _, metadata = flatten_tensor_state_dict(state)
        return {**HEADER, **metadata, METADATA: json.dumps(modules)}

    def module_tensors(self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight) -> dict[str, Tensor]:
        """The parts of torchao's tensor: int8 codes, float32 scales and, if it is no integer product, zero points."""
        tensors: dict[str, Tensor]
        tensors, _ = flatten_tensor_state_dict({f"{name}.weight": _ao_tensor(checkpoint, entry)})
        return tensors

    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """Read every module with torchao's own code.

        Raises:
            InputError: a file that is missing or damaged, or not one of this format; at access: a missing tensor.
            RunError: at access: zero points of symmetric weights that are not 0.
        """
        read_config(Path(directory))
        tensors = TensorFolder(Path(directory))
        if METADATA not in tensors.metadata:
            raise InputError(f"{directory} was not written by the format torchao; export again")
        modules = json.loads(tensors.metadata[METADATA]).items()
        present = {name: facts for name, facts in modules if f"{name}._weight_qdata" in tensors}
        return Lazy({name: partial(_read_module, tensors, name, facts) for name, facts in present.items()})


def _ao_tensor(checkpoint: QuantizedCheckpoint, entry: QuantizedWeight) -> Tensor:
    dtype, grid = getattr(torch, checkpoint.config["dtype"]), entry.grid
    is_product = _kind(entry) == "int8"
    made: Tensor = int8_tensor(grid, dtype) if is_product else intx_tensor(grid, entry.args.num_bits, dtype)
    return made


def _read_module(tensors: TensorFolder, name: str, facts: dict[str, Any]) -> ReadModule:
    weight, prefix = f"{name}.weight", f"{name}._weight_"
    if weight not in tensors.metadata:
        raise InputError(f"the headers in {tensors.directory} lack {weight}; export again")
    header = {"tensor_names": json.dumps([weight]), weight: tensors.metadata[weight]}
    for part in json.loads(header[weight])["_tensor_data_names"]:
        tensors.require(f"{prefix}{part}")
    local = {key: tensors[key] for key in tensors if key.startswith(prefix)}
    state, left = unflatten_tensor_state_dict(local, header)
    if left or weight not in state:
        raise InputError(f"{tensors.directory} has other tensors of {name} than its header says; export again")
    tensor = state[weight]
    scale = tensor.scale.to(getattr(torch, facts["scale_dtype"])).reshape(facts["scale_shape"])
    if not isinstance(tensor, IntxUnpackedToInt8Tensor):
        return ReadModule(Grid(tensor.qdata, scale))
    if not facts["symmetric"]:
        return ReadModule(Grid(tensor.qdata, scale, tensor.zero_point.reshape(facts["scale_shape"])))
    if tensor.zero_point.any():
        raise RunError(f"{name}: it has zero points that are not 0, which torchao reads, and its weights are symmetric")
    return ReadModule(Grid(tensor.qdata, scale))


def _kind(entry: QuantizedWeight) -> Literal["intx", "int8"] | None:
    """Which of torchao's tensors computes what the module was trained to; None if none does."""
    inputs, weights = entry.scheme.input_activations, entry.args
    if inputs is None:
        return "intx"
    int8_input = (inputs.num_bits, inputs.strategy, inputs.symmetric, bool(inputs.dynamic)) == (8, "token", True, True)
    return "int8" if int8_input and (weights.strategy, weights.symmetric) == ("channel", True) else None


def _reason(entry: QuantizedWeight) -> str:
    inputs = entry.scheme.input_activations
    assert inputs is not None
    if not inputs.dynamic:
        return "transformers reads no scale of a static activation back from torchao's files"
    if (inputs.num_bits, inputs.strategy, inputs.symmetric) != (8, "token", True):
        return "torchao's integer product takes inputs of 8 bits, symmetric, one scale a token"
    return "torchao's integer product takes symmetric weights of one scale a channel"


def _quantization_config(checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
    """What transformers' ``TorchAoConfig.to_dict`` gives; it only describes tensors that are quantized already."""
    configs = {name: _ao_config(entry) for name, entry in checkpoint.weights.items()}
    first = next(iter(configs.values()))
    same = all(config == first for config in configs.values())
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config_to_dict(first if same else FqnToConfig(configs))},
        "modules_to_not_convert": unquantized_modules(checkpoint),
        # With it, transformers takes the embedding and the head that is tied to it off that list.
        "include_input_output_embeddings": any(entry.kind == "Embedding" for entry in checkpoint.weights.values()),
        "untie_embedding_weights": False,
    }


def _ao_config(entry: QuantizedWeight) -> AOBaseConfig:
    if _kind(entry) == "int8":
        return Int8DynamicActivationInt8WeightConfig()
    args = entry.args
    return IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{args.num_bits}"),
        granularity=PerGroup(args.group_size) if args.strategy == "group" else PerAxis(0),
        mapping_type=MappingType.SYMMETRIC if args.symmetric else MappingType.ASYMMETRIC,
    )
