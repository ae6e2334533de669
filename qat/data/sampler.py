"""The order of the training blocks: a pure function of the seed and the batch number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from qat.errors import InputError


class StepSampler(Sampler[list[int]]):
    """Batch sampler whose batch ``i`` depends on ``seed`` and ``i`` only: a resume sees the same batches.

    Sample number ``n = i * batch_size + j`` of the run is block ``permutation(seed, epoch)[n % num_blocks]``
    of epoch ``n // num_blocks``: each block is seen once an epoch, each epoch has its own order, and a batch
    may reach over the border of two epochs, so that no block is dropped and all batches have the same size.

    Args:
        num_blocks: blocks in the dataset.
        batch_size: blocks a batch.
        seed: seed of the run.
        start_batch: number of the first batch to yield; on resume, how many the run has already had.
        total_batches: number of batches of the whole run, those before ``start_batch`` included.

    Raises:
        InputError: if ``num_blocks``, ``batch_size`` or ``total_batches`` is below 1, or if ``start_batch``
            does not lie in ``[0, total_batches]``.
    """

    def __init__(
        self, num_blocks: int, batch_size: int, seed: int, start_batch: int = 0, *, total_batches: int
    ) -> None:
        for name, value in (
            ("num_blocks", num_blocks),
            ("batch_size", batch_size),
            ("total_batches", total_batches),
        ):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if not 0 <= start_batch <= total_batches:
            raise InputError(f"start_batch={start_batch} must lie between 0 and total_batches={total_batches}")
        self.num_blocks = num_blocks
        self.batch_size = batch_size
        self.seed = seed
        self.start_batch = start_batch
        self.total_batches = total_batches

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for batch in range(self.start_batch, self.total_batches):
            indices = []
            for sample in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                if sample // self.num_blocks != epoch:
                    epoch = sample // self.num_blocks
                    order = permutation(self.seed, epoch, self.num_blocks)
                indices.append(int(order[sample % self.num_blocks]))
            yield indices

    def __len__(self) -> int:
        # The whole run's batches, also when it starts in the middle: Lightning compares this length with its
        # own batch counter, which goes on where the interrupted run stopped instead of starting at 0 again.
        return self.total_batches


def permutation(seed: int, epoch: int, size: int) -> torch.Tensor:
    """A random order of ``range(size)`` as ``int64 [size]``, the same for the same three arguments.

    Seed and epoch are hashed together, so that neighbouring seeds share no epoch's order.
    """
    digest = hashlib.sha256(f"{seed}:{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.randperm(size, generator=generator)
