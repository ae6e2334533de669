from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch.utils.data import DataLoader

from qat.data.sampler import StepSampler, permutation
from qat.errors import InputError


def test_batches_are_the_permutations_in_a_row() -> None:
    orders = [permutation(3, epoch, 5).tolist() for epoch in range(3)]
    stream = [index for order in orders for index in order]
    batches = list(StepSampler(5, 2, seed=3, total_batches=7))
    assert batches == [stream[i : i + 2] for i in range(0, 14, 2)]


def test_permutation_by_an_independent_formula() -> None:
    seed = int(hashlib.sha256(b"7:2").hexdigest()[:16], 16)
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(permutation(7, 2, 100), expected)


@pytest.mark.parametrize("start", range(13))
def test_starting_in_the_middle_gives_the_same_batches(start: int) -> None:
    """Five blocks in batches of two: every second epoch border lies inside a batch."""
    whole = list(StepSampler(5, 2, seed=1, total_batches=12))
    assert list(StepSampler(5, 2, seed=1, start_batch=start, total_batches=12)) == whole[start:]


def test_batch_larger_than_the_data() -> None:
    (batch,) = StepSampler(3, 7, seed=0, total_batches=1)
    assert Counter(batch[:3]) == Counter(batch[3:6]) == Counter(range(3))


def test_every_block_once_an_epoch_in_another_order() -> None:
    epochs = list(StepSampler(50, 50, seed=0, total_batches=4))
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert all(a != b for a, b in pairwise(epochs))


def test_seeds_differ_also_across_epochs() -> None:
    assert permutation(0, 1, 50).tolist() != permutation(1, 0, 50).tolist()
    assert permutation(0, 0, 50).tolist() != permutation(1, 0, 50).tolist()


def test_iterating_twice_starts_again_and_leaves_torch_alone() -> None:
    sampler = StepSampler(5, 2, seed=0, start_batch=2, total_batches=6)
    state = torch.get_rng_state()
    assert list(sampler) == list(sampler)
    assert torch.equal(torch.get_rng_state(), state)


def test_length_is_the_whole_run() -> None:
    assert len(StepSampler(5, 2, seed=0, start_batch=4, total_batches=6)) == 6


def test_as_batch_sampler_of_a_data_loader() -> None:
    sampler = StepSampler(5, 2, seed=0, total_batches=3)
    loader = DataLoader(torch.arange(5) * 10, batch_sampler=sampler)  # type: ignore[arg-type]
    assert [batch.tolist() for batch in loader] == [[10 * i for i in batch] for batch in sampler]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 0}, "num_blocks=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"total_batches": 0}, "total_batches=0 must be at least 1"),
        ({"start_batch": -1}, "start_batch=-1 must lie between 0 and total_batches=5"),
        ({"start_batch": 6}, "start_batch=6 must lie between 0 and total_batches=5"),
    ],
)
def test_bad_numbers(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StepSampler(**({"num_blocks": 4, "batch_size": 2, "seed": 0, "total_batches": 5} | options))
