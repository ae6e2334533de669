from __future__ import annotations

import importlib.util
import json

import pytest
from torch import Tensor

from qat.engines.base import NotAvailable
from qat.engines.onnxruntime import OnnxRuntimeEngine
from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.onnx.exporter import OnnxExporter
from qat.restore import restore
from qat.scheme import preset


@pytest.fixture
def checkpoint(frozen):
    return frozen(preset("w4a16_g32"), num_hidden_layers=1)


def test_onnxruntime_computes_and_continues_as_transformers_does(checkpoint, exported, tokens: Tensor) -> None:
    directory = exported(OnnxExporter(), checkpoint)
    engine = OnnxRuntimeEngine(threads=1)
    engine.load(directory)
    assert (engine.task, engine.dtype) == ("causal_lm", "float32")
    assert max_logit_difference(engine.logits, restore(checkpoint), tokens) <= 1e-5
    other = TransformersEngine()
    other.load(exported(CompressedTensorsExporter(), checkpoint))
    made = other.continue_greedily([5, 6, 7], 8)
    assert engine.continue_greedily([5, 6, 7], 8) == made
    stop = {"eos_token_id": [made[2]]}
    (directory / "generation_config.json").write_text(json.dumps(stop))
    assert engine.continue_greedily([5, 6, 7], 8) == made[: made.index(made[2]) + 1]


def test_rounded_activations_are_not_called_float32(checkpoint, exported, tokens: Tensor) -> None:
    engine = OnnxRuntimeEngine(threads=1, accuracy_level=4)
    engine.load(exported(OnnxExporter(), checkpoint))
    assert engine.dtype == "float16" and "accuracy level 4" in engine.description
    assert max_logit_difference(engine.logits, restore(checkpoint), tokens) > 1e-4


def test_what_is_no_onnx_export_is_named(checkpoint, exported) -> None:
    directory = exported(CompressedTensorsExporter(), checkpoint)
    with pytest.raises(InputError, match=f"onnxruntime cannot load {directory}"):
        OnnxRuntimeEngine().load(directory)


def test_without_its_extra_it_is_not_available(checkpoint, exported, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = exported(OnnxExporter(), checkpoint)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    engine = OnnxRuntimeEngine()
    assert engine.missing() == "the package onnxruntime is not installed: pip install '.[onnx]' in qat's checkout"
    with pytest.raises(NotAvailable, match=r"\.\[onnx\]"):
        engine.load(directory)
