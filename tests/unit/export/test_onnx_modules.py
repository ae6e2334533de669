from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor, nn

from qat.export.onnx.modules import OPSET, DequantizedWeight, DynamicInput, OnnxEmbedding, OnnxLinear, StaticInput
from qat.fake_quant.base import Layout
from qat.fake_quant.dynamic import Dynamic
from qat.fake_quant.fixed import Fixed
from qat.grid import Grid, qrange

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter uses its own old names

ROWS, COLUMNS, GROUP = 10, 48, 16
LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def run(module: nn.Module, path: Path, *inputs: Tensor) -> list[list[Tensor]]:
    """What ONNX Runtime computes for ``module``, without optimizations and with all."""
    torch.onnx.export(module.eval(), inputs, path, dynamo=True, optimize=False, opset_version=OPSET, verbose=False)
    results = []
    for level in LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), inputs, strict=True)}
        results.append([torch.from_numpy(np.asarray(out)) for out in session.run(None, feeds)])
    return results


def random_grid(args: QuantizationArgs, dtype: torch.dtype) -> Grid:
    generator = torch.Generator().manual_seed(args.num_bits)
    low, high = qrange(args.num_bits)
    shape = {"tensor": (1,), "channel": (ROWS, 1), "group": (ROWS, COLUMNS // GROUP)}[args.strategy]
    codes = torch.randint(low, high + 1, (ROWS, COLUMNS), generator=generator).to(torch.int8)
    codes[0, 0], codes[-1, -1] = low, high
    scale = torch.rand(shape, generator=generator).add(0.01).to(dtype)
    zero_point = torch.randint(low, high + 1, shape, generator=generator).to(torch.int8)
    return Grid(codes, scale, None if args.symmetric else zero_point)


class Weights(nn.Module):
    """The values of many weights."""

    def __init__(self, weights: list[DequantizedWeight]) -> None:
        super().__init__()
        self.weights = nn.ModuleList(weights)

    def forward(self, zero: Tensor) -> tuple[Tensor, ...]:
        return tuple(weight() + zero for weight in self.weights)


def test_onnxruntime_dequantizes_every_grid_to_its_value(tmp_path):
    grids, weights = [], []
    kinds = itertools.product((2, 3, 4, 8), ("tensor", "channel", "group"), (True, False), (True, False))
    for bits, strategy, symmetric, transposed in kinds:
        size = GROUP if strategy == "group" else None
        args = QuantizationArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, group_size=size)
        grid = random_grid(args, torch.float32 if bits == 8 else torch.bfloat16)
        grids.append(grid.value().t() if transposed else grid.value())
        weights.append(DequantizedWeight(grid, args, transposed))
    for result in run(Weights(weights), tmp_path / "weights.onnx", torch.zeros(())):
        for value, expected in zip(result, grids, strict=True):
            assert torch.equal(value, expected)


def test_tied_modules_share_one_weight_in_both_layouts():
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=GROUP)
    grid, ids, x = random_grid(args, torch.bfloat16), torch.tensor([[3, 0]]), torch.randn(1, 2, COLUMNS)
    for transposed in (True, False):
        weight = DequantizedWeight(grid, args, transposed)
        weight.forward = lambda t=transposed: grid.value().t() if t else grid.value()  # symbolic ops only trace
        assert torch.equal(OnnxEmbedding(weight)(ids), grid.value()[ids])
        torch.testing.assert_close(OnnxLinear(weight, torch.ones(ROWS), None)(x), x @ grid.value().t() + 1)


def activations() -> Tensor:
    """Random numbers, ties between two codes, zeros, one large number."""
    x = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)) * 3
    x[0, 0] = torch.arange(32) - 16 + 0.5
    x[0, 1] = 0.0
    x[0, 2, 0] = 1e4
    return x


class Inputs(nn.Module):
    """One input, rounded in many ways."""

    def __init__(self, inputs: list[nn.Module]) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(inputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x) for module in self.inputs)


def test_dynamic_inputs_are_rounded_as_in_training_bit_for_bit(tmp_path):
    quantizers, x = [], activations()
    for strategy, symmetric, bits in itertools.product(("token", "tensor"), (True, False), (4, 8)):
        args = QuantizationArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, dynamic=True)
        quantizers.append(Dynamic().build(args, Layout(1, 1, activation=True), "fp32"))
    for results in run(Inputs([DynamicInput(quantizer) for quantizer in quantizers]), tmp_path / "inputs.onnx", x):
        for result, quantizer in zip(results, quantizers, strict=True):
            assert torch.equal(result, quantizer(x)), quantizer


def test_static_inputs_are_rounded_to_the_stored_grid(tmp_path):
    """Bit for bit without a zero point; with one, ties between two codes may fall to the other."""
    quantizers, modules, x = [], [], activations()
    for scale, zero_point in ((1.0, None), (1.0, 0), (1.0, -7), (0.0437219, None)):  # of 1.0, every half is a tie
        zero = None if zero_point is None else torch.tensor([zero_point], dtype=torch.int8)
        args = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=zero is None)
        quantizers.append(Fixed(torch.tensor([scale]), zero).build(args, Layout(1, 1, activation=True), "fp32"))
        modules.append(StaticInput(torch.tensor([scale]), zero))
    ties = (x - x.floor()) == 0.5
    assert ties.any()
    for exact, at_zero, shifted, learned in run(Inputs(modules), tmp_path / "inputs.onnx", x):
        for result, index in ((exact, 0), (at_zero, 1), (learned, 3)):
            assert torch.equal(result, quantizers[index](x))
        difference = (shifted - quantizers[2](x)).abs()
        assert difference[~ties].max() == 0 and difference.max() == 1


def test_codes_of_a_linear_lie_as_matmul_takes_them():
    scheme = QuantizationScheme(targets=[], weights={"num_bits": 4, "strategy": "group", "group_size": GROUP})
    weight = DequantizedWeight(random_grid(scheme.weights, torch.bfloat16), scheme.weights, transposed=True)
    assert weight.attributes == {"axis": 0, "block_size": GROUP}
    assert weight.codes.shape == (COLUMNS, ROWS)
    assert weight.scale.shape == (COLUMNS // GROUP, ROWS)
