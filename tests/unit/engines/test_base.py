from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from support import copy_tokenizer
from torch import Tensor

from qat.engines.base import Engine
from qat.errors import InputError, RunError
from qat.models.tokenizer import load_tokenizer

TABLE = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
"""Logits after each of three tokens."""


class Table(Engine):
    """The next token depends on the present one only."""

    formats = frozenset({"none"})
    description = "a table"

    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        self.directory, self.task, self.dtype = directory, "causal_lm", "float32"

    def logits(self, tokens: Tensor) -> Tensor:
        return TABLE[tokens]

    def continue_greedily(self, prompt: list[int], new_tokens: int) -> list[int]:
        return [(prompt[-1] + step + 1) % 1000 for step in range(new_tokens)]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    engine = Table()
    engine.load(tmp_path)
    return engine


def nats(before: int, after: int) -> float:
    row = TABLE[before].double()
    return float(row.exp().sum().log() - row[after])


def test_token_losses_are_cross_entropies_of_the_next_token(table: Table) -> None:
    losses = table.token_losses(torch.tensor([[0, 1, 2], [2, 0, 0]]))
    assert losses.dtype == torch.float32 and losses.shape == (2, 2)
    wanted = [nats(0, 1), nats(1, 2), math.log(3), nats(0, 0)]
    assert losses.flatten().tolist() == pytest.approx(wanted, rel=1e-6)


def test_losses_of_log_probabilities_are_the_same(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.tensor([[0, 1, 2]])
    wanted = table.token_losses(tokens)
    monkeypatch.setattr(Table, "logits", lambda self, tokens: TABLE[tokens].log_softmax(-1))
    torch.testing.assert_close(table.token_losses(tokens), wanted)


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 3, 3), (1, 3)])
def test_logits_of_another_shape_give_no_losses(
    table: Table, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(Table, "logits", lambda self, tokens: torch.zeros(shape))
    message = f"a table gives logits of shape {list(shape)} for tokens of [1, 3]"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        table.token_losses(torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_loss_is_the_mean_over_labelled_tokens(table: Table, batch_size: int) -> None:
    ids = torch.tensor([[0, 1, 2], [2, 0, 0], [1, 1, 0]])
    labels = torch.tensor([[-100, 1, -100], [-100, -100, -100], [1, 1, 0]])
    blocks = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    wanted = (nats(0, 1) + nats(1, 1) + nats(1, 0)) / 3
    assert table.loss(blocks, batch_size) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(InputError, match="no token to score"):
        table.loss(blocks[1:2], batch_size)


def test_text_passes_through_the_exports_tokenizer(table: Table, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer"):
        table.generate("def ")
    copy_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    last = tokenizer("def ")["input_ids"][-1]
    assert table.generate("def ", 3) == tokenizer.decode([last + 1, last + 2, last + 3])
    with pytest.raises(InputError, match="no token"):
        table.generate("")


def test_only_a_loaded_language_model_predicts(table: Table) -> None:
    with pytest.raises(InputError, match="call load"):
        Table().token_losses(torch.zeros(1, 2, dtype=torch.int64))
    table.task = "encoder"
    with pytest.raises(InputError, match="is a encoder: only causal language models predict"):
        table.token_losses(torch.zeros(1, 2, dtype=torch.int64))
