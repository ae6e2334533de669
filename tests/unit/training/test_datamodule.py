"""Which blocks a step sees."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qat.errors import InputError
from qat.training.datamodule import QATDataModule

Tiny = Any


def _data(tiny: Tiny, **options: Any) -> QATDataModule:
    return QATDataModule(tiny.blocks(13, seed=0), tiny.blocks(5, seed=1), batch_size=2, seed=0, **options)


def _batches(data: QATDataModule, step: int) -> list[torch.Tensor]:
    data.trainer = SimpleNamespace(global_step=step, max_steps=10, accumulate_grad_batches=3)  # type: ignore[assignment]
    return [batch["input_ids"] for batch in data.train_dataloader()]


def test_a_resumed_run_gets_the_rest_of_the_batches(tiny: Tiny) -> None:
    whole = _batches(_data(tiny), step=0)
    rest = _batches(_data(tiny), step=4)
    assert len(whole) == 30
    assert len(rest) == 18
    assert all(torch.equal(a, b) for a, b in zip(whole[12:], rest, strict=True))


def test_the_length_is_that_of_the_whole_run_also_in_its_middle(tiny: Tiny) -> None:
    data = _data(tiny)
    _batches(data, step=4)
    assert len(data.train_dataloader()) == 30


def test_workers_change_nothing(tiny: Tiny) -> None:
    alone, helped = _batches(_data(tiny), step=8), _batches(_data(tiny, workers=1), step=8)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize(("val_blocks", "expected"), [(None, [2, 2, 1]), (3, [2, 1]), (99, [2, 2, 1])])
def test_validation_takes_the_first_blocks_in_order(tiny: Tiny, val_blocks: int | None, expected: list[int]) -> None:
    data = _data(tiny, val_blocks=val_blocks)
    batches = [batch["input_ids"] for batch in data.val_dataloader()]
    assert [len(batch) for batch in batches] == expected
    assert torch.equal(torch.cat(batches), tiny.blocks(5, seed=1).tokens[: sum(expected)])


def test_no_block_to_train_on_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="no block"):
        QATDataModule(tiny.blocks(0, seed=0), None, batch_size=2, seed=0)
