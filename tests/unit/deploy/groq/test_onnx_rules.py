from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qat.deploy.groq.onnx_rules import PARAMETERS_A_CHIP, RULES, Subject, size


def graph(
    *, opset: int = 16, kind: int = TensorProto.INT64, rows: int | str = 1, weight: np.ndarray
) -> onnx.ModelProto:
    """``Gather(weight, ids)``: the smallest graph with ids and weights."""
    ids = helper.make_tensor_value_info("ids", kind, [rows, 4])
    out = helper.make_tensor_value_info("out", helper.np_dtype_to_tensor_dtype(weight.dtype), [rows, 4, 2])
    node = helper.make_node("Gather", ["w", "ids"], ["out"])
    made = helper.make_graph([node], "g", [ids], [out], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


HALF = np.ones((8, 2), np.float16)


def failed(model: onnx.ModelProto, folder: Path) -> list[str]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return [check.rule for check in (rule(Subject(path)) for rule in RULES) if check.status == "fail"]


def test_a_graph_that_fits_passes_all_but_the_compiler(tmp_path: Path) -> None:
    assert failed(graph(weight=HALF), tmp_path) == []
    checks = [rule(Subject(tmp_path / "model.onnx")) for rule in RULES]
    assert [check.status for check in checks] == ["pass"] * 7 + ["not_run"]
    assert "Groq's compiler was not run" in checks[-1].found


@pytest.mark.parametrize("opset", [12, 17])
def test_an_opset_outside_13_to_16_fails(opset: int, tmp_path: Path) -> None:
    assert failed(graph(opset=opset, weight=HALF), tmp_path) == ["groq.O2.opset"]


def test_a_free_dimension_fails(tmp_path: Path) -> None:
    assert "groq.O3.shapes" in failed(graph(rows="batch", weight=HALF), tmp_path)


def test_a_large_float32_weight_fails(tmp_path: Path) -> None:
    assert failed(graph(weight=np.ones((4096, 2), np.float32)), tmp_path) == ["groq.O5.weights"]


def test_integer_weights_fail(tmp_path: Path) -> None:
    assert failed(graph(weight=np.ones((8, 2), np.int8)), tmp_path) == ["groq.O5.weights"]


def test_inputs_that_are_no_integers_fail(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT16, [1])
    made = helper.make_graph([helper.make_node("Abs", ["x"], ["out"])], "g", [x], [out])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    assert failed(model, tmp_path) == ["groq.O4.inputs"]


def test_numbers_that_are_not_finite_fail(tmp_path: Path) -> None:
    assert failed(graph(weight=np.full((8, 2), np.inf, np.float16)), tmp_path) == ["groq.O7.runs"]


def test_a_damaged_file_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    checks = [rule(Subject(path)) for rule in RULES]
    assert checks[0].status == checks[6].status == "fail"
    assert {check.status for check in checks} == {"fail", "not_run"}


def test_chips_are_counted(tmp_path: Path) -> None:
    for total, status, chips in ((PARAMETERS_A_CHIP, "pass", "1 chip"), (PARAMETERS_A_CHIP + 1, "warn", "2 chips")):
        model = graph(weight=HALF)
        model.graph.initializer[0].dims[:] = [total, 1]  # without its data: no rule reads it
        model.graph.initializer[0].ClearField("raw_data")
        onnx.save(model, tmp_path / "model.onnx")
        check = size(Subject(tmp_path / "model.onnx"))
        assert (check.status, check.found) == (status, f"{total:,} parameters: about {chips}")
