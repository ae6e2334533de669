from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qat.config.compose import choices
from qat.errors import InputError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.report.matrix.records import Row
from qat.report.metrics import EngineResult, ExportResult

SCRIPT = Path(__file__).parents[3] / "scripts" / "engine_matrix.py"
HELD = ExportResult(bytes=1, tensors=1, mismatched_codes=0, mismatched_scales=0)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_matrix", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_matrix"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_preset_is_tried_on_its_own_grid_first(script: ModuleType) -> None:
    assert script.CHANGES[:2] == ({}, {"rest_dtype": "float16"})
    assert all("scale_format" in changes for changes in script.CHANGES[2:])


def matrixed(script: ModuleType, place: Path, error: Exception | None = None):
    """Without a model: quantizing raises ``error``, or gives nothing that an exporter could look at."""

    class Fake(script.Matrixed):
        def __init__(self) -> None:
            self.place = place

        def _quantized(self, scheme: str, changes: object) -> tuple[None, None]:
            if error is not None:
                raise error
            return None, None

    return Fake()


def test_what_quantizing_says_is_no_refusal(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no calibration data"):
        matrixed(script, tmp_path, InputError("no calibration data")).row("w8a8", script.Format("compressed_tensors"))


def test_what_the_exporter_says_is_one(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["first", *("later" for _ in script.CHANGES[1:])])

    def refuse(*_: object) -> None:
        raise InputError(next(said))

    monkeypatch.setattr(CompressedTensorsExporter, "takes", refuse)
    row = matrixed(script, tmp_path).row("w8a8", script.Format("compressed_tensors"))
    assert row == Row(scheme="w8a8", format="compressed_tensors", refused="first")
    assert next(said, None) is None  # every change was tried


def test_a_refusal_that_is_not_written_down_is_a_problem(script: ModuleType) -> None:
    known = Row(scheme="w8a8", format="onnx, static=true, sequence=256", refused="activations")
    held = Row(scheme="w8a8", format="torchao", result=HELD)
    assert script.unexpected([known, held]) == []
    new = Row(scheme="w8a16", format="torchao", refused="no")
    assert script.unexpected([known, new]) == ["w8a16 in torchao: refused: no"]
    gone = Row(scheme="w8a8", format="gptq", result=HELD)
    (problem,) = script.unexpected([gone])
    assert problem.startswith("w8a8 in gptq: held, though REFUSED")


def test_a_row_is_told_in_one_line_when_it_is_done(script: ModuleType) -> None:
    engines = {"vllm": EngineResult(status="not_available", reason="no kernel"), "torchao": EngineResult(status="ok")}
    held = Row(scheme="w8a8", format="x", result=HELD.model_copy(update={"engines": engines}))
    assert script.progress(held) == "w8a8 in x: 0 numbers differ; vllm not available, torchao ok"
    assert script.progress(Row(scheme="w8a8", format="x", result=HELD)) == "w8a8 in x: 0 numbers differ; no engine"
    assert script.progress(Row(scheme="w8a8", format="x", refused="no")) == "w8a8 in x: refused: no"


def test_what_is_written_down_exists(script: ModuleType) -> None:
    labels = {form.label.partition(", sequence=")[0] for form in script.formats(256)}
    assert script.REFUSED.keys() <= labels
    assert all(schemes <= set(choices("scheme")) for schemes in script.REFUSED.values())
