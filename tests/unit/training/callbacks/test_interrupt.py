"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.errors import Interrupted
from qat.training.module import QATModule

Tiny = Any


def _at(module: QATModule, moment: int, *signals: int) -> QATModule:
    """Send the signals to this process at micro-batch ``moment``."""
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        if batch_idx == moment:
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(0.05)  # two signals sent at once may arrive as one
        return step(batch, batch_idx)

    module.training_step = training_step  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_step_is_finished_and_saved(tiny: Tiny, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"after step 3 of 20; resume with: qat train resume={tmp_path}") as error:
        tiny.run(_at(tiny.float(), 4, number), tmp_path)  # the first micro-batch of step 3
    assert error.value.exit_code == 130
    assert tiny.checkpoint(tmp_path)["global_step"] == 3
    assert signal.getsignal(number) == before


def test_the_validation_of_the_step_is_finished_too(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="after step 6 of 20"):
        tiny.run(_at(tiny.float(), 11, signal.SIGINT), tmp_path, val_every=6)
    assert tiny.rows(tmp_path)[-1]["val/loss"] != ""


@pytest.mark.parametrize("batch", [4, 5, 11])
def test_the_resumed_run_is_the_uninterrupted_one(tiny: Tiny, tmp_path: Path, batch: int) -> None:
    whole, parted = tiny.quantized(20), tiny.quantized(20)
    tiny.run(whole, tmp_path / "whole")
    with pytest.raises(Interrupted):
        tiny.run(_at(tiny.quantized(20), batch, signal.SIGINT), tmp_path / "parted")
    tiny.run(parted, tmp_path / "parted", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))
    assert tiny.rows(tmp_path / "whole") == tiny.rows(tmp_path / "parted")


def test_a_signal_in_the_last_step_is_too_late(tiny: Tiny, tmp_path: Path) -> None:
    assert tiny.run(_at(tiny.float(), 39, signal.SIGINT), tmp_path).steps == 20


def test_a_second_signal_stops_at_once(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny.run(_at(tiny.float(), 4, signal.SIGINT, signal.SIGINT), tmp_path)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()
