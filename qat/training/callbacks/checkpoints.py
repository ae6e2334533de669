"""``last.ckpt`` to resume from, and ``best.ckpt`` with the lowest validation loss at the scheme's precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from qat.errors import Interrupted
from qat.training.callbacks.interrupt import Interrupt
from qat.training.callbacks.steps import ends_step, is_due
from qat.training.module import QATModule

LAST, BEST = "last.ckpt", "best.ckpt"


class Checkpoints(Checkpoint):
    """Saves only where nothing is under way: after an optimizer step, and after its validation if it has one.

    Lightning's ``ModelCheckpoint`` has no such notion: resumed at a step that it saves at, it saves again in
    the middle of the following accumulation window; and it saves before the validation of its step, which a
    resume then skips. Deriving from ``Checkpoint`` keeps this callback behind all others, so that what they
    log for a step is on disk before the checkpoint that lets a resume skip the step.

    ``best.ckpt`` compares only what could be frozen: a validation in float or at more bits than the scheme's has a
    lower loss, which says nothing about the quantized model.

    Args:
        directory: the run's ``checkpoints`` folder.
        save_every: optimizer steps between two ``last.ckpt``; the last step always has one.
        val_every: optimizer steps between two validations; 0 for a run without.
        interrupt: where a request to stop is noted.
    """

    def __init__(self, directory: Path, save_every: int, val_every: int, interrupt: Interrupt) -> None:
        self.directory = directory
        self.save_every = save_every
        self.val_every = val_every
        self.interrupt = interrupt
        self.best = math.inf

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a step that no validation follows."""
        if ends_step(trainer, batch_idx) and (not self.val_every or trainer.global_step % self.val_every != 0):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a step and its validation."""
        assert isinstance(pl_module, QATModule)
        if pl_module.at_scheme and pl_module.validation_loss < self.best:
            self.best = pl_module.validation_loss
            trainer.save_checkpoint(self.directory / BEST, weights_only=True)
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if is_due(trainer, self.save_every) or self.interrupt.requested:
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.directory / LAST)
        if self.interrupt.requested and step < trainer.max_steps:
            raise Interrupted(f"interrupted after step {step} of {trainer.max_steps}")

    def state_dict(self) -> dict[str, Any]:
        """The lowest validation loss so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.best = state_dict["best"]
