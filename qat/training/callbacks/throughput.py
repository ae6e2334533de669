"""Tokens a second and seconds of the training itself."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class Throughput(Callback):
    """Counts the tokens and seconds of training, its data loading and checkpoints; validation is left out.

    The counts are saved with a checkpoint, so that those of a resumed run are those of the whole run.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._mark = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Mean over the run so far; 0 before the first step."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock again behind a validation."""
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count one micro-batch."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now
        self.tokens += batch["input_ids"].numel()

    def state_dict(self) -> dict[str, Any]:
        """The counts so far."""
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]
