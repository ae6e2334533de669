"""TensorBoard event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.errors import InputError
from qat.training.loggers import log_artifact, tensorboard
from qat.training.loggers.tensorboard import TensorBoardLogger

Tiny = Any


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install '\.\[tensorboard\]'"):
        TensorBoardLogger(tmp_path)


def test_the_events_are_those_of_the_csv(tiny: Tiny, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    tiny.run(tiny.float(), tmp_path, loggers=[TensorBoardLogger(tmp_path)], max_steps=4, val_every=2)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = tiny.rows(tmp_path)
    for key in ("train/loss", "val/loss"):
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert found == [(int(row["step"]), pytest.approx(float(row[key]))) for row in rows if row[key]]


def test_it_keeps_no_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    log_artifact([TensorBoardLogger(tmp_path)], tmp_path, "name", "export")
