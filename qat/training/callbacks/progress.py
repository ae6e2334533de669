"""A progress bar in a terminal, and a line now and then elsewhere."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from qat.training.callbacks.metrics import Metrics
from qat.training.callbacks.steps import ends_step, is_due
from qat.training.module import QATModule

_LOSSES = (("loss", "train/loss"), ("val", "val/loss"))


class ProgressBar(Callback):
    """Shows loss, speed, phase, bits and the time left.

    Args:
        metrics: what was logged last; without a terminal, a line follows each of its rows of training values.
        console: where to draw; standard error by default, so that piped results stay clean.
    """

    def __init__(self, metrics: Metrics, console: Console | None = None) -> None:
        self.metrics = metrics
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar, from the step that a resume starts at."""
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("train"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or print a line after a step that was logged."""
        assert isinstance(pl_module, QATModule)
        if not ends_step(trainer, batch_idx):
            return
        step = trainer.global_step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._summary(pl_module))
        elif is_due(trainer, self.metrics.log_every):
            left = self.metrics.throughput.seconds / step * (trainer.max_steps - step)
            line = f"step {step}/{trainer.max_steps}  {self._summary(pl_module)}  {left:.0f} s left"
            self.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Free the terminal for the error message."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _summary(self, module: QATModule) -> str:
        latest = self.metrics.latest
        parts = [f"{name} {latest[key]:.4f}" for name, key in _LOSSES if key in latest]
        parts.append(f"{self.metrics.throughput.tokens_per_second:,.0f} tokens/s")
        if module.state is not None:
            parts.append(f"{module.state.phase} {module.precision()['bits']} bits")
        return "  ".join(parts)
