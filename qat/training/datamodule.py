"""Batches for Lightning: which blocks a step sees depends on the seed and the step only."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from qat.data.sampler import StepSampler
from qat.errors import InputError
from qat.training.workers import SteadyLoader

Blocks = Dataset[dict[str, Tensor]]


class QATDataModule(pl.LightningDataModule):
    """Training and validation blocks.

    The whole run is one Lightning epoch; passes over the data are the sampler's business. A resumed run
    starts its sampler at the first batch that the checkpoint has not seen.

    Args:
        train: map-style dataset of ``{"input_ids", "labels"}``, int64 ``[block]``.
        validation: the same; ``None`` for a run without validation.
        batch_size: blocks of one micro-batch.
        seed: of the order of the blocks.
        val_blocks: validate on the first so many blocks only.
        workers: processes that read blocks; 0 reads in the main one, which is best for memory-mapped tokens.

    Raises:
        InputError: if there is no block to train on.
    """

    def __init__(
        self,
        train: Blocks,
        validation: Blocks | None,
        batch_size: int,
        seed: int,
        val_blocks: int | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if len(train) == 0:  # type: ignore[arg-type]
            raise InputError("the training split has no block; give more text or a smaller trainer.block_size")
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        self.val_blocks = val_blocks
        self.workers = workers

    def train_dataloader(self) -> SteadyLoader:
        """Batches from the trainer's present step on; its length is that of the whole run."""
        assert self.trainer is not None
        accumulate = self.trainer.accumulate_grad_batches
        sampler = StepSampler(
            num_blocks=len(self.train),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            seed=self.seed,
            start_batch=self.trainer.global_step * accumulate,
            total_batches=self.trainer.max_steps * accumulate,
        )
        return SteadyLoader(self.train, batch_sampler=sampler, **self._options())

    def val_dataloader(self) -> SteadyLoader | list[SteadyLoader]:
        """The first ``val_blocks`` validation blocks in order."""
        if self.validation is None:
            return []
        size = len(self.validation)  # type: ignore[arg-type]
        kept = size if self.val_blocks is None else min(size, self.val_blocks)
        blocks = Subset(self.validation, range(kept))
        return SteadyLoader(blocks, batch_size=self.batch_size, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"num_workers": self.workers, "pin_memory": torch.cuda.is_available()}
