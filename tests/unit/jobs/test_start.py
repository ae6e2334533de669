"""PTQ as the start of a training, and what a resume does with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import error_of

from qat.cli.main import main
from qat.ptq.gptq import GPTQ
from qat.ptq.rtn import RTN
from qat.training.module import QATModule

pytestmark = pytest.mark.slow


@pytest.fixture
def words(text_words: list[str], tmp_path: Path) -> Callable[..., list[str]]:
    """``words("a")`` trains for three steps into the folder ``a``."""

    def make(name: str) -> list[str]:
        return [
            *("train", "model=hf", "model.path=any", "model.shrink=true", "model.architecture={model_type: llama}"),
            *text_words,
            *("trainer.max_steps=3", "trainer.block_size=16", "trainer.batch_size=2", "trainer.val_every=0"),
            *("trainer.device=cpu", "trainer.save_every=1", "calibration_batches=2", "scheme=w4a8_channel"),
            *("ptq=gptq", f"run_dir={tmp_path / name}"),
        ]

    return make


def codes(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "quantized" / "model.safetensors")


def assert_same(folder: Path, other: Path) -> None:
    ours, theirs = codes(folder), codes(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def stop(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int) -> None:
    """Fail at the given call of a method."""
    original, calls = getattr(owner, method), []

    def stopping(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("stopped")
        return original(self, *args)

    monkeypatch.setattr(owner, method, stopping)


def test_a_resume_goes_on_without_computing_the_start_again(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words("straight")) == 0
    assert main([*words("rounded"), "ptq=rtn_mse"]) == 0
    assert any(not torch.equal(codes(tmp_path / "rounded")[n], t) for n, t in codes(tmp_path / "straight").items())
    with monkeypatch.context() as patch:
        stop(patch, QATModule, "training_step", 3)
        error_of(capsys, *words("stopped"), code=1)
    with monkeypatch.context() as patch:
        patch.setattr(GPTQ, "run", None)
        patch.setattr(RTN, "run", None)
        assert main(["train", f"resume={tmp_path / 'stopped'}"]) == 0
    assert_same(tmp_path / "stopped", tmp_path / "straight")
    assert not (tmp_path / "stopped" / "blocks").exists()


def test_a_start_that_was_stopped_goes_on_block_by_block(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words("straight")) == 0
    with monkeypatch.context() as patch:
        stop(patch, GPTQ, "quantize_block", 2)
        error_of(capsys, *words("stopped"), code=1)
    assert [path.name for path in (tmp_path / "stopped" / "blocks").iterdir()] == ["model.layers.0"]
    with monkeypatch.context() as patch:
        stop(patch, GPTQ, "quantize_block", 2)  # there is one block left
        assert main(["train", f"resume={tmp_path / 'stopped'}"]) == 0
    assert_same(tmp_path / "stopped", tmp_path / "straight")


def test_another_start_cannot_be_resumed(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("run")) == 0
    line = error_of(capsys, "train", f"resume={tmp_path / 'run'}", "ptq.damping=0.1")
    assert "ptq.damping=0.1 but" in line and "was started with 0.01" in line
