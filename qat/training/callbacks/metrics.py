"""Sends losses, rates, phase, bits and speed to the loggers."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from qat.training.callbacks.steps import ends_step, is_due
from qat.training.callbacks.throughput import Throughput
from qat.training.module import QATModule


def log(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """Send ``values`` to every logger under the number of optimizer steps done.

    Lightning's own ``self.log`` is not used: it shows the last micro-batch of an accumulation window where
    the mean of the window is meant, and numbers the rows of training and validation apart.
    """
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)


class Metrics(Callback):
    """Logs ``train/*``, ``lr/*``, ``phase``, ``bits``, ``tokens_per_second`` and ``val/*``.

    Args:
        log_every: optimizer steps between two rows.
        throughput: the speed to log.
    """

    def __init__(self, log_every: int, throughput: Throughput) -> None:
        self.log_every = log_every
        self.throughput = throughput
        self.latest: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the mean losses of an accumulation window that has just ended."""
        assert isinstance(pl_module, QATModule)
        if not ends_step(trainer, batch_idx):
            return
        window = pl_module.take_window()
        if is_due(trainer, self.log_every):
            values = {f"train/{name}": value.item() for name, value in window.items()}
            values |= pl_module.rates() | pl_module.precision()
            values["tokens_per_second"] = self.throughput.tokens_per_second
            self._log(trainer, values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation loss, and the perplexity where it is a loss of tokens."""
        assert isinstance(pl_module, QATModule)
        loss = pl_module.validation_loss
        values = {"val/loss": loss}
        if pl_module.task != "encoder":
            values["val/perplexity"] = math.exp(loss) if loss < 700 else math.inf
        self._log(trainer, values)

    def _log(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        self.latest.update(values)
        log(trainer, values)
