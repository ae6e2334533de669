"""Where an optimizer step ends, and what is due there."""

from __future__ import annotations

import pytorch_lightning as pl


def ends_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether micro-batch ``batch_idx`` is the last of its accumulation window, so that a step has just been taken."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_due(trainer: pl.Trainer, every: int) -> bool:
    """Whether what happens every ``every`` steps, and after the last one, happens after the step just taken."""
    return trainer.global_step % every == 0 or trainer.global_step == trainer.max_steps
