from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from qat.errors import RunError
from qat.export.onnx.opset16 import OPSET, TRACED_OPSET, TRANSLATIONS, lower

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter uses its own old names


def graph(nodes: list, initializers: list, outputs: list[str]) -> ir.Model:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [x], shapes, initializers),
        opset_imports=[helper.make_opsetid("", TRACED_OPSET)],
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == OPSET
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


X = np.arange(12, dtype=np.float32).reshape(2, 6)


def test_axes_become_an_attribute():
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [-1])
    model = graph([helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)], [axes], ["y"])
    lower(model)
    assert run(model, X)[0].tolist() == [2.5, 8.5]


def test_a_number_of_parts_becomes_their_sizes():
    model = graph([helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3)], [], ["a", "b", "c"])
    lower(model)
    assert [part.tolist() for part in run(model, X)] == [X[:, i : i + 2].tolist() for i in (0, 2, 4)]


def test_computed_axes_are_refused():
    nodes = [helper.make_node("Shape", ["x"], ["axes"], end=1), helper.make_node("ReduceMean", ["x", "axes"], ["y"])]
    with pytest.raises(RunError, match="constant axes"):
        lower(graph(nodes, [], ["y"]))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_is_torchs(bias):
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(6, bias=bias).eval(), torch.randn(2, 6)
    nn.init.normal_(norm.weight)
    program = torch.onnx.export(
        norm, (x,), dynamo=True, optimize=False, verbose=False, opset_version=TRACED_OPSET,
        custom_translation_table=TRANSLATIONS,
    )  # fmt: skip
    lower(program.model)
    assert "LayerNormalization" not in {node.op_type for node in program.model.graph}
    torch.testing.assert_close(torch.from_numpy(run(program.model, x.numpy())[0]), norm(x).detach())
