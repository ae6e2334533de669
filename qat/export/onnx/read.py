"""Reading an ONNX file: the way back to the checkpoint's integers, by the onnx package's own code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from qat.errors import InputError, RunError
from qat.export.onnx.modules import OPSET
from qat.export.onnx.names import CODES, DATA, FORMAT_VERSION, METADATA, MODEL, SCALE, ZERO_POINT
from qat.grid import Grid
from qat.quantized import ReadModule


def load(directory: Path) -> tuple[Graph, dict[str, Any]]:
    """The graph of an export, and what its metadata says of every module.

    Raises:
        InputError: no ONNX export of qat, or a file that is missing or damaged.
    """
    path = directory / MODEL
    if not path.is_file():
        raise InputError(f"{directory} is no ONNX export: it has no {MODEL}")
    try:
        model = onnx.load(path, load_external_data=False)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        metadata: dict[str, Any] = json.loads(properties[METADATA])
        version, modules = metadata["format_version"], metadata["modules"]
    except KeyError:
        raise InputError(f"{path} was not written by qat: it has no '{METADATA}' metadata") from None
    except (DecodeError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); export again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}; this qat reads {FORMAT_VERSION}")
    _check_data(model, directory)
    return Graph.of(model, directory), modules


def _check_data(model: onnx.ModelProto, directory: Path) -> None:
    """Refuse a file of weights that is missing or too short."""
    outside = [ExternalDataInfo(t) for t in model.graph.initializer if uses_external_data(t)]
    needed = max(((info.offset or 0) + (info.length or 0) for info in outside), default=0)
    path = directory / DATA
    if outside and not (path.is_file() and path.stat().st_size >= needed):
        raise InputError(f"{path} is missing or damaged: it needs {needed:,} bytes; export again")


@dataclass(frozen=True)
class Graph:
    """Finds tensors of a loaded model by name, and reads them when they are asked for.

    Attributes:
        directory: where the model lies.
        tensors: its initializers.
        readers: initializer -> the DequantizeLinear that reads it.
    """

    directory: Path
    tensors: dict[str, onnx.TensorProto]
    readers: dict[str, onnx.NodeProto]

    @classmethod
    def of(cls, model: onnx.ModelProto, directory: Path) -> Graph:
        """Index a model."""
        readers = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
        return cls(directory, {tensor.name: tensor for tensor in model.graph.initializer}, readers)

    def array(self, name: str) -> NDArray[Any]:
        """An initializer.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.tensors:
            raise InputError(f"{self.directory / MODEL} lacks {name}, which its metadata promises; export again")
        return numpy_helper.to_array(self.tensors[name], str(self.directory))

    def tensor(self, name: str) -> Tensor:
        """An initializer; INT4 becomes int8."""
        array = self.array(name)
        return torch.from_numpy(array.astype("int8") if array.dtype == ml_dtypes.int4 else array.copy())

    def dequantized(self, codes: str) -> Tensor:
        """What onnx's own reference implementation makes of the node that reads ``codes``.

        Raises:
            InputError: no node reads it.
        """
        if codes not in self.readers:
            raise InputError(f"no DequantizeLinear of {self.directory / MODEL} reads {codes}; export again")
        node = self.readers[codes]
        output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        initializers = [numpy_helper.from_array(self.array(name), name) for name in node.input]
        graph = onnx.helper.make_graph([node], "weight", [], [output], initializers)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
        (value,) = ReferenceEvaluator(model).run(None, {})
        return torch.from_numpy(np.asarray(value).copy())


def read_module(graph: Graph, name: str, about: dict[str, Any]) -> ReadModule:
    """Integers and scales of one module, shaped as the checkpoint's; of a static graph its values.

    Args:
        graph: of the file.
        name: of the module.
        about: its entry in the metadata.

    Raises:
        RunError: onnx's reference implementation computes other values than the integers have, or the zero point of
            a symmetric input is not 0.
    """
    prefix, transposed = f"{name}.weight", about["kind"] == "Linear"
    if prefix in graph.tensors:
        return ReadModule(graph.tensor(prefix))
    codes = graph.tensor(f"{prefix}.{CODES}")
    rows = codes.shape[1] if transposed else codes.shape[0]

    def stored(part: str) -> Tensor:
        tensor = graph.tensor(f"{prefix}.{part}")
        if tensor.ndim == 2:
            return tensor.t().contiguous() if transposed else tensor
        return tensor.reshape(1) if tensor.ndim == 0 else tensor.reshape(rows, 1)

    scale = stored(SCALE).to(getattr(torch, about["scale_dtype"]))
    zero_point = stored(ZERO_POINT) if f"{prefix}.{ZERO_POINT}" in graph.tensors else None
    grid = Grid(codes.t().contiguous() if transposed else codes, scale, zero_point)
    value = graph.dequantized(f"{prefix}.{CODES}")
    if not torch.equal(value.t() if transposed else value, grid.value()):
        raise RunError(f"{name}: onnx's DequantizeLinear makes other values of it than its integers have")
    if about["input"] != "static":
        return ReadModule(grid)
    input_zero_point = graph.tensor(f"{name}.input.{ZERO_POINT}").reshape(1)
    if about["input_zero_point"]:
        return ReadModule(grid, graph.tensor(f"{name}.input.{SCALE}").reshape(1), input_zero_point)
    if input_zero_point.any():
        raise RunError(f"{name}: the zero point of its input is {int(input_zero_point)}, and its input is symmetric")
    return ReadModule(grid, graph.tensor(f"{name}.input.{SCALE}").reshape(1))
