"""Write a graph of opset 18 with the operators of opset 16, for compilers that stop there.

Between the two only these changed that a transformer uses (onnx, docs/Changelog.md): LayerNormalization came with 17;
18 moved the axes of the Reduce operators from an attribute to an input and gave Split a number of outputs.
``onnx.checker`` refuses whatever else there may be, so an operator that is missing here cannot pass unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18

from qat.errors import RunError

OPSET = 16
IR_VERSION = 8
"""The file format's version of that time (onnx, docs/Versioning.md)."""
TRACED_OPSET = 18


def layer_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, _: bool = True
) -> Any:
    """``torch.nn.functional.layer_norm`` in older operators; mean and variance in float32, as torch has them."""
    op: Any = opset18  # its type stubs know tensors only, not the values of a graph that is being built
    axes = op.Constant(value_ints=[-1 - axis for axis in range(len(normalized_shape))])
    wide = op.Cast(x, to=ir.DataType.FLOAT)
    centered = op.Sub(wide, op.ReduceMean(wide, axes))
    variance = op.ReduceMean(op.Mul(centered, centered), axes)
    y = op.Div(centered, op.Sqrt(op.Add(variance, op.Constant(value_float=eps))))
    for tensor, apply in ((weight, op.Mul), (bias, op.Add)):
        if tensor is not None:
            y = apply(y, op.Cast(tensor, to=ir.DataType.FLOAT))
    return op.CastLike(y, x)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.layer_norm.default: layer_norm}


def lower(model: ir.Model) -> None:
    """Rewrite ``model`` in place.

    Raises:
        RunError: axes that are computed, or a Split of unequal or unknown parts.
    """
    for node in list(model.graph):
        if node.op_type.startswith("Reduce") and len(node.inputs) == 2:
            _axes_to_attribute(node)
        elif node.op_type == "Split" and "num_outputs" in node.attributes:
            _count_to_sizes(model.graph, node)
    model.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION


def _axes_to_attribute(node: ir.Node) -> None:
    axes = None if node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
    if axes is None:
        raise RunError(f"opset {OPSET} takes only constant axes, and those of {node.op_type} '{node.name}' are not")
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes["axes"] = ir.AttrInt64s("axes", axes.numpy().reshape(-1).tolist())


def _count_to_sizes(graph: ir.Graph, node: ir.Node) -> None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    sizes = [output.shape[axis] if output.shape is not None else None for output in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        raise RunError(f"opset {OPSET} takes only constant sizes, and those of Split '{node.name}' are not")
    del node.attributes["num_outputs"]
    split = ir.node("Constant", [], {"value": ir.tensor(np.array(sizes, dtype=np.int64))})
    split.outputs[0].name = f"{node.outputs[0].name}_sizes"
    graph.insert_before(node, split)
    node.resize_inputs(2)
    node.replace_input_with(1, split.outputs[0])
