"""The progress bar, and the lines that replace it."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from qat.training.callbacks.metrics import Metrics
from qat.training.callbacks.progress import ProgressBar
from qat.training.callbacks.throughput import Throughput

Tiny = Any


def _show(tiny: Tiny, terminal: bool, accumulate: int = 1) -> str:
    output = io.StringIO()
    counter = Throughput()
    counter.tokens, counter.seconds = 6000, 2.0
    metrics = Metrics(2, counter)
    metrics.latest = {"train/loss": 1.5, "val/loss": 2.25}
    bar = ProgressBar(metrics, Console(file=output, force_terminal=terminal, width=200))
    module = tiny.quantized(20)
    trainer: Any = SimpleNamespace(global_step=0, max_steps=20, accumulate_grad_batches=accumulate)
    bar.on_train_start(trainer, module)
    for step in range(1, 5):
        module.apply_precision(module.schedule.state_at(step - 1))
        trainer.global_step = step
        bar.on_train_batch_end(trainer, module, None, None, step - 1)
    bar.on_train_end(trainer, module)
    return output.getvalue()


def test_lines_follow_the_logged_steps_without_a_terminal(tiny: Tiny) -> None:
    assert _show(tiny, terminal=False).splitlines() == [
        "step 2/20  loss 1.5000  val 2.2500  3,000 tokens/s  warmup 32 bits  18 s left",
        "step 4/20  loss 1.5000  val 2.2500  3,000 tokens/s  bits 8 bits  8 s left",
    ]


def test_the_middle_of_an_accumulation_window_is_not_shown(tiny: Tiny) -> None:
    assert len(_show(tiny, terminal=False, accumulate=4).splitlines()) == 1


def test_a_terminal_gets_a_bar(tiny: Tiny) -> None:
    shown = _show(tiny, terminal=True)
    assert "4/20" in shown
    assert "loss 1.5000  val 2.2500  3,000 tokens/s  bits 8 bits" in shown
