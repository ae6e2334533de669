"""Writing the ONNX file: INT4 and INT8 tensors, metadata, the checker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import RunError
from qat.export.onnx.names import CODES, DATA, FORMAT_VERSION, METADATA, MODEL, ZERO_POINT
from qat.quantized import QuantizedWeight

ONE_FILE = 1_500_000_000
"""Weights of more bytes lie in a file of their own: protobuf ends at 2 GiB."""


def narrow(model: ir.Model, checkpoint: QuantizedCheckpoint) -> None:
    """Store codes and zero points of up to 4 bits as INT4, and unquantized 16-bit matrices in their own 16 bits."""
    for name, entry in checkpoint.weights.items():
        for part in (CODES, ZERO_POINT) if entry.args.num_bits <= 4 else ():
            if value := model.graph.initializers.get(f"{name}.weight.{part}"):
                _retype(value, ir.DataType.INT4)
    for name, tensor in checkpoint.rest.items():
        value = model.graph.initializers.get(name)
        if value is not None and is_narrow(tensor):
            _store_and_cast(model.graph, value, _ONNX[tensor.dtype])


def is_narrow(tensor: Tensor) -> bool:
    """Whether an unquantized tensor is stored in 16 bits: a matrix that has no more. Vectors are not worth a node."""
    return tensor.dtype in _ONNX and tensor.ndim >= 2


_ONNX = {torch.bfloat16: ir.DataType.BFLOAT16, torch.float16: ir.DataType.FLOAT16}


def _retype(value: ir.Value, dtype: ir.DataType) -> None:
    assert value.const_value is not None
    array = value.const_value.numpy().astype(dtype.numpy())
    value.const_value = ir.Tensor(array, dtype=dtype, name=value.name)
    value.dtype = dtype


def _store_and_cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    """Let a Cast to float32 stand between an initializer and its users; runtimes fold it while loading."""
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    wide = cast.outputs[0]
    wide.name, wide.dtype, wide.shape = f"{value.name}.float", ir.DataType.FLOAT, value.shape
    for user, index in tuple(value.uses()):
        if user is not cast:
            user.replace_input_with(index, wide)
    graph.insert_before(graph[0], cast)
    _retype(value, dtype)


def save(model: ir.Model, checkpoint: QuantizedCheckpoint, directory: Path, nbytes: int) -> Path:
    """Write ``model`` with its metadata and check it, shapes included.

    Raises:
        RunError: the checker refuses it, or a module is not part of the graph.
    """
    for name in checkpoint.weights:
        if not {f"{name}.weight", f"{name}.weight.{CODES}"} & model.graph.initializers.keys():
            raise RunError(
                f"the model's outputs do not depend on {name}, so ONNX cannot hold it; ignore it in the scheme"
            )
    modules = {name: _describe(entry) for name, entry in checkpoint.weights.items()}
    metadata = {"format_version": FORMAT_VERSION, "task": checkpoint.task, "modules": modules}
    model.metadata_props[METADATA] = json.dumps(metadata, sort_keys=True)
    model.producer_name = "qat"
    path = directory / MODEL
    ir.save(model, path, external_data=DATA if nbytes > ONE_FILE else None)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RunError(f"onnx.checker refuses the graph: {str(error).strip().splitlines()[0]}") from error
    return path


def _describe(entry: QuantizedWeight) -> dict[str, Any]:
    inputs = entry.scheme.input_activations
    return {
        "kind": entry.kind,
        "scheme": entry.scheme.model_dump(mode="json"),
        "scale_dtype": str(entry.layout.scale.dtype).removeprefix("torch."),
        "input": None if inputs is None else "dynamic" if inputs.dynamic else "static",
        "input_zero_point": entry.input_zero_point is not None,
    }
