"""Tokens and seconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qat.training.callbacks import throughput
from qat.training.callbacks.throughput import Throughput

Tiny = Any


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_validation_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counter = Clock(), Throughput()
    monkeypatch.setattr(throughput, "time", clock)
    nothing: Any = SimpleNamespace()
    batch = {"input_ids": torch.zeros(2, 8)}
    assert counter.tokens_per_second == 0
    counter.on_train_start(nothing, nothing)
    clock.now += 2
    counter.on_train_batch_end(nothing, nothing, None, batch, 0)
    clock.now += 50
    counter.on_validation_end(nothing, nothing)
    clock.now += 6
    counter.on_train_batch_end(nothing, nothing, None, batch, 1)
    assert (counter.tokens, counter.seconds, counter.tokens_per_second) == (32, 8.0, 4.0)


def test_a_resume_goes_on_counting(tiny: Tiny, tmp_path: Path) -> None:
    first = tiny.run(tiny.float(), tmp_path, max_steps=2)
    second = tiny.run(tiny.float(), tmp_path, max_steps=4, resume=True)
    assert first.tokens == 2 * 2 * 2 * 16
    assert second.tokens == 2 * first.tokens
    assert second.seconds > first.seconds
