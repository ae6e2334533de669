"""Masked-language-model inputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from qat.errors import InputError
from qat.training.masking import Masking

MASK, SPECIAL = 99, 7
MASKING = Masking(mask_id=MASK, vocab_size=90, special_ids=(SPECIAL, MASK))


def _batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(90, (100, 200), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "labels": tokens.clone()}


def test_chosen_tokens_are_the_only_labels_and_the_only_changes() -> None:
    batch = _batch()
    masked = MASKING.apply(batch, seed=1)
    chosen = masked["labels"] != -100
    assert torch.equal(masked["labels"][chosen], batch["input_ids"][chosen])
    assert torch.equal(masked["input_ids"][~chosen], batch["input_ids"][~chosen])


def test_shares_are_those_of_bert() -> None:
    batch = _batch()
    masked = MASKING.apply(batch, seed=1)
    chosen = masked["labels"] != -100
    ordinary = batch["input_ids"] != SPECIAL
    before, after = batch["input_ids"][chosen], masked["input_ids"][chosen]
    assert (chosen.sum() / ordinary.sum()).item() == pytest.approx(0.15, abs=0.01)
    assert (after == MASK).float().mean().item() == pytest.approx(0.8, abs=0.02)
    # A random token is the token itself once in 90.
    assert (after == before).float().mean().item() == pytest.approx(0.1 + 0.1 / 90, abs=0.02)


def test_special_and_untrained_tokens_are_never_chosen() -> None:
    batch = _batch()
    batch["labels"][:50] = -100
    masked = MASKING.apply(batch, seed=1)
    assert (masked["labels"][:50] == -100).all()
    assert not (masked["labels"] == SPECIAL).any()


def test_the_seed_decides() -> None:
    batch = _batch()
    first, again, other = (MASKING.apply(batch, seed)["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_from_a_tokenizer() -> None:
    class Tokenizer:
        mask_token_id = 4
        all_special_ids = (0, 4, 0)

        def __len__(self) -> int:
            return 10

    assert Masking.from_tokenizer(Tokenizer()) == Masking(4, 10, (0, 4))


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(InputError, match="mask token"):
        Masking.from_tokenizer(SimpleNamespace(mask_token_id=None))
