"""What is hidden from a masked language model, to train it and to score it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from qat.data.masking import Masking
from qat.errors import InputError

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


def test_a_scored_block_hides_its_share_behind_the_mask_token_alone() -> None:
    batch = _batch()
    tokens, labels = batch["input_ids"][0], batch["labels"][0]
    labels[:50] = -100
    hidden, kept = MASKING.apply_to_block(tokens, labels, seed=1)
    chosen = kept != -100
    candidates = (tokens[50:] != SPECIAL).sum().item()
    assert chosen.sum() == round(0.15 * candidates)
    assert torch.equal(hidden, tokens.masked_fill(chosen, MASK))
    assert torch.equal(kept, tokens.masked_fill(~chosen, -100))


def test_what_training_never_hides_scoring_never_hides() -> None:
    """Both over many seeds: every token that may be hidden is, by both, and no other by either."""
    tokens = torch.tensor([SPECIAL, 1, 2, SPECIAL, 3, MASK, 4])
    labels = torch.tensor([SPECIAL, 1, -100, SPECIAL, 3, MASK, 4])
    trained, scored = torch.zeros(7, dtype=torch.bool), torch.zeros(7, dtype=torch.bool)
    for seed in range(200):
        trained |= MASKING.apply({"input_ids": tokens, "labels": labels}, seed)["labels"] != -100
        scored |= MASKING.apply_to_block(tokens, labels, seed)[1] != -100
    assert trained.tolist() == scored.tolist() == [False, True, False, False, True, False, True]


def test_a_scored_block_hides_at_least_one_token_if_any_may_be() -> None:
    for tokens, count in ((torch.tensor([SPECIAL, 1, 2]), 1), (torch.tensor([SPECIAL, SPECIAL]), 0)):
        assert (MASKING.apply_to_block(tokens, tokens, seed=0)[1] != -100).sum() == count


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
