"""The first stage of every command: the model, its text, and what both must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from qat.config.check import instantiate
from qat.config.schema import RunConfig
from qat.data.document import Source, Split
from qat.data.masking import Masking
from qat.data.tokens import TokenBlocks, build_tokens
from qat.errors import InputError
from qat.jobs.stages.console import begin
from qat.models.loaded import LoadedModel
from qat.training.trainer import TrainerConfig, accelerator_of


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Attributes:
        loaded: the float base with its tokenizer.
        source: where the text comes from.
        trainer: how long and on what to train; also the block size and the device of everything else.
    """

    loaded: LoadedModel
    source: Source
    trainer: TrainerConfig
    _blocks: dict[Split, TokenBlocks] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """The device of ``trainer.device``, for everything besides training."""
        name = accelerator_of(self.trainer.device)
        return torch.device("cuda" if name == "gpu" else name)

    def masking(self) -> Masking | None:
        """What is hidden from a masked language model, in training and in scoring; None for another task.

        Raises:
            InputError: if its tokenizer has no mask token.
        """
        return Masking.from_tokenizer(self.loaded.tokenizer) if self.loaded.task == "masked_lm" else None

    def tokens(self, split: Split) -> TokenBlocks:
        """The packed blocks of a split, from the cache when they are there; the cache is read and checked once."""
        if split not in self._blocks:
            begin(f"tokens of the {split} split")
            self._blocks[split] = build_tokens(self.source, self.loaded.tokenizer, split, self.trainer.block_size)
        return self._blocks[split]

    def calibration(self, batches: int) -> Iterator[dict[str, Tensor]]:
        """The first batches of the training split, as keyword arguments of a model on :attr:`device`."""
        blocks = self.tokens("train")
        size = min(self.trainer.batch_size, len(blocks))
        starts = range(0, len(blocks) - size + 1, size)
        for start in islice(starts, batches):
            rows = [blocks[start + row]["input_ids"] for row in range(size)]
            yield {"input_ids": torch.stack(rows).to(self.device)}


def load(run: RunConfig) -> Inputs:
    """Load the model and open the text.

    Raises:
        InputError: if either cannot be used, a block is longer than the model's context, or the device is not
            there.
    """
    accelerator_of(instantiate(run.trainer, "trainer").device)
    begin("loading the model")
    return of_model(run, instantiate(run.model, "model"))


def of_model(run: RunConfig, loaded: LoadedModel) -> Inputs:
    """Open the text for a model that is loaded, or is a skeleton.

    Raises:
        InputError: see :func:`load`.
    """
    trainer: TrainerConfig = instantiate(run.trainer, "trainer")
    accelerator_of(trainer.device)
    if trainer.block_size > loaded.context:
        raise InputError(
            f"trainer.block_size={trainer.block_size} is longer than the context of {loaded.name}, "
            f"{loaded.context} tokens; set trainer.block_size={loaded.context} or less"
        )
    return Inputs(loaded, instantiate(run.data, "data"), trainer)
