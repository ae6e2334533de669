from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qat.engines import isolated as module
from qat.engines.base import NotAvailable
from qat.engines.isolated import Isolated, build
from qat.engines.transformers import TransformersEngine
from qat.engines.vllm import VllmEngine
from qat.errors import InputError, RunError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.scheme import preset

CONFIG = {"_target_": "qat.engines.transformers.TransformersEngine", "dtype": "float32", "device": None}


@pytest.fixture
def directory(frozen, exported) -> Path:
    return exported(CompressedTensorsExporter(), frozen(preset("w4a16_g32")))


def test_a_process_answers_as_the_engine_does(directory: Path, tokens: torch.Tensor) -> None:
    engine = TransformersEngine()
    engine.load(directory)
    with Isolated(CONFIG) as apart:
        apart.load(directory)
        assert (apart.description, apart.task, apart.dtype) == (engine.description, engine.task, engine.dtype)
        assert torch.equal(apart.logits(tokens), engine.logits(tokens))
        assert torch.equal(apart.token_losses(tokens), engine.token_losses(tokens))
        assert apart.continue_greedily([1, 2, 3], 8) == engine.continue_greedily([1, 2, 3], 8)
        assert apart.generate("def ", 5) == engine.generate("def ", 5)
        name = "model.layers.0.mlp.up_proj"
        assert torch.equal(apart.weight(name), engine.weight(name))
        assert 1 << 26 < apart.peak_memory_bytes < 1 << 32
        with pytest.raises(InputError, match="do not fit the model's context of 64"):
            apart.continue_greedily([1] * 60, 8)
        assert len(apart.continue_greedily([1], 2)) == 2, "an error of one call is not the next one's"
    with pytest.raises(InputError, match="call load"):
        apart.logits(tokens)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with Isolated(CONFIG) as apart, pytest.raises(InputError) as caught:
        apart.load(tmp_path)
    assert str(caught.value) == f"{tmp_path} is no model folder: it has no config.json"


def test_an_engine_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with Isolated(CONFIG, time_limit=0.01) as apart, pytest.raises(InputError, match=r"within 0\.01 seconds"):
        apart.load(tmp_path)
    with pytest.raises(InputError, match="time_limit is 0"):
        Isolated(CONFIG, time_limit=0)


def test_a_process_that_falls_while_it_computes_is_a_failed_run(directory: Path, tokens: torch.Tensor) -> None:
    with Isolated(CONFIG) as apart:
        apart.load(directory)
        apart._worker._process._process.kill()
        with pytest.raises(RunError, match=r"transformers was ended by SIGKILL \(.*memory"):
            apart.logits(tokens)


def test_an_engine_that_is_absent_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path))
    apart = Isolated({"_target_": "qat.engines.vllm.VllmEngine", "time_limit": 5.0})
    assert apart.missing() == "not installed: scripts/engines.sh vllm"
    assert apart.weight("any") is None, "vLLM tells no weights, and is not asked"
    assert apart.time_limit == 5.0 and apart.normalised and apart.formats == VllmEngine.formats
    with pytest.raises(NotAvailable, match="scripts/engines.sh vllm"):
        apart.load(tmp_path)


def test_token_losses_of_another_shape_are_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = Isolated(CONFIG)
    monkeypatch.setattr(Isolated, "description", "an engine")
    monkeypatch.setattr(apart, "ask", lambda *_, **__: np.zeros((2, 16), np.float32))
    with pytest.raises(RunError, match=r"an engine gives token losses of shape \[2, 16\], not \[2, 15\]"):
        apart.token_losses(torch.zeros(2, 16, dtype=torch.int64))
    assert apart.token_losses(torch.zeros(2, 17, dtype=torch.int64)).shape == (2, 16)


def test_only_engines_are_built() -> None:
    assert isinstance(build(CONFIG), TransformersEngine)
    with pytest.raises(InputError, match=r"'os\.system' is not an engine"):
        build({"_target_": "os.system"})


def test_the_worker_takes_the_qat_that_runs_here() -> None:
    root = Path(module.__file__).resolve().parents[2]
    assert Isolated(CONFIG).launch("cpu").environment["PYTHONPATH"].split(":")[0] == str(root)
