"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
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
                signal.raise_signal(number)  # returns when the handler has run
        return step(batch, batch_idx)

    module.training_step = training_step  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_step_is_finished_and_saved(tiny: Tiny, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="^interrupted after step 3 of 20$") as error:
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


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(tiny: Tiny, tmp_path: Path, first: int, second: int) -> None:
    module, before, begun = tiny.float(), signal.getsignal(second), []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (begun.append(batch_idx), step(batch, batch_idx))[1]
    with pytest.raises(KeyboardInterrupt):
        tiny.run(_at(module, 4, first, second), tmp_path)
    assert begun == [0, 1, 2, 3]
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert signal.getsignal(second) == before
