"""Modules that trace to ONNX's quantization operators: the integers go into the graph, no float copy of a weight does.

A weight is ``DequantizeLinear(codes, scale[, zero point])`` in float32, hence exactly ``Grid.value()``. A linear layer
keeps its codes transposed, [in, out], so that the operator feeds MatMul directly and runtimes can fuse the two:

    strategy   codes of a Linear   scale in the file   attributes
    tensor     [in, out]           []                  -
    channel    [in, out]           [out]               axis 1
    group      [in, out]           [in / g, out]       axis 0, block_size g

An embedding stays [vocabulary, features]: axis 0 for channels, axis 1 for groups.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from qat import grid
from qat.checkpoint import QuantizedCheckpoint
from qat.export.onnx.names import CODES, SCALE, ZERO_POINT
from qat.fake_quant import FakeQuantizer
from qat.grid import Grid
from qat.quantized import QuantizedWeight
from qat.restore import restore

OPSET = 21
"""The first with blocks and INT4."""


class DequantizedWeight(nn.Module):
    """The integers of one weight; ``forward()`` is their value, float32 in the layout of the codes.

    Args:
        weights: its grid.
        args: its strategy.
        transposed: keep the codes as [in, out].
    """

    def __init__(self, weights: Grid, args: QuantizationArgs, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.attributes = dequantize_attributes(args, transposed)
        self.register_buffer(CODES, _oriented(weights.codes, transposed))
        self.register_buffer(SCALE, _parameter(weights.scale.float(), args, transposed))
        if weights.zero_point is not None:
            self.register_buffer(ZERO_POINT, _parameter(weights.zero_point, args, transposed))

    def forward(self) -> Tensor:
        """See the class."""
        inputs = [self.get_buffer(name) for name in (CODES, SCALE)]
        if ZERO_POINT in self._buffers:
            inputs.append(self.get_buffer(ZERO_POINT))
        shape = inputs[0].shape
        return symbolic("DequantizeLinear", inputs, self.attributes, dtype=torch.float32, shape=shape, version=OPSET)


class StaticInput(nn.Module):
    """QuantizeLinear and DequantizeLinear with a learned scale and zero point.

    ONNX rounds before it adds the zero point, training after: only with a zero point, and only where ``x / scale``
    lies within float32's rounding of a border between two codes, can a code differ by one.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor | None) -> None:
        super().__init__()
        zeros = torch.zeros((), dtype=torch.int8)
        self.register_buffer(SCALE, scale.float().reshape(()))
        self.register_buffer(ZERO_POINT, zeros if zero_point is None else zero_point.reshape(()))

    def forward(self, x: Tensor) -> Tensor:
        """Round ``x`` float32 to its grid."""
        scale, zero_point = self.get_buffer(SCALE), self.get_buffer(ZERO_POINT)
        codes = symbolic("QuantizeLinear", (x, scale, zero_point), dtype=torch.int8, shape=x.shape, version=OPSET)
        return symbolic(
            "DequantizeLinear", (codes, scale, zero_point), dtype=torch.float32, shape=x.shape, version=OPSET
        )


class DynamicInput(nn.Module):
    """Rounding to the extremes of each token: the very functions of training, without its switches."""

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Round ``x`` float32 to its grid."""
        groups = grid.to_groups(x, self.quantizer.args)
        scale, zero_point = self.quantizer.scale_and_zero_point(groups)
        codes = grid.quantize(groups, scale, zero_point, self.quantizer.qmin, self.quantizer.qmax)
        return grid.dequantize(codes, scale, zero_point).reshape(x.shape)


class OnnxLinear(nn.Module):
    """``round(x) @ weight + bias``."""

    def __init__(self, weight: DequantizedWeight, bias: Tensor | None, inputs: nn.Module | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.input = nn.Identity() if inputs is None else inputs

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is [..., in]."""
        weight = self.weight() if self.weight.transposed else self.weight().t()
        y = torch.matmul(self.input(x), weight)
        return y if self.bias is None else y + self.bias


class OnnxEmbedding(nn.Module):
    """Rows of ``weight``."""

    def __init__(self, weight: DequantizedWeight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        """``ids`` are integers of any shape."""
        weight = self.weight().t() if self.weight.transposed else self.weight()
        return nn.functional.embedding(ids, weight)


def integer_model(checkpoint: QuantizedCheckpoint) -> nn.Module:
    """The restored model with every quantized module, and those tied to it, replaced by one of the above."""
    model = restore(checkpoint)
    ties = {names[0].removesuffix(".weight"): names[1:] for names in checkpoint.tied}
    for name, entry in checkpoint.weights.items():
        weight = DequantizedWeight(entry.grid, entry.args, transposed=entry.kind == "Linear")
        for user in (name, *(other.removesuffix(".weight") for other in ties.get(name, ()))):
            module = model.get_submodule(user)
            replacement = (
                OnnxEmbedding(weight)
                if isinstance(module, nn.Embedding)
                else OnnxLinear(weight, cast(nn.Linear, module).bias, _input(module, entry))
            )
            model.set_submodule(user, replacement)
    return model


def dequantize_attributes(args: QuantizationArgs, transposed: bool) -> dict[str, Any]:
    """Attributes of the DequantizeLinear of a weight."""
    if args.strategy == QuantizationStrategy.TENSOR:
        return {}
    if args.strategy == QuantizationStrategy.CHANNEL:
        return {"axis": 1 if transposed else 0}
    assert args.group_size is not None
    return {"axis": 0 if transposed else 1, "block_size": args.group_size}


def _input(module: nn.Module, entry: QuantizedWeight) -> nn.Module | None:
    inputs = entry.scheme.input_activations
    if inputs is None:
        return None
    if inputs.dynamic:
        return DynamicInput(module.get_submodule("activation_fake_quantizer"))  # type: ignore[arg-type]
    assert entry.input_scale is not None
    return StaticInput(entry.input_scale, entry.input_zero_point)


def _oriented(matrix: Tensor, transposed: bool) -> Tensor:
    return matrix.t().contiguous() if transposed else matrix


def _parameter(stored: Tensor, args: QuantizationArgs, transposed: bool) -> Tensor:
    """A scale or zero point in the shape that DequantizeLinear takes."""
    if args.strategy == QuantizationStrategy.TENSOR:
        return stored.reshape(())
    if args.strategy == QuantizationStrategy.CHANNEL:
        return stored.reshape(-1)
    return _oriented(stored, transposed)
