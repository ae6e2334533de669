"""Masked-language-model inputs (BERT, arXiv:1810.04805, section 3.1): one rule for training and scoring.

Both hide 15 % of the trained tokens that are not special. Training follows BERT, which puts a random or the
true token in the place of some; scoring puts the mask token in the place of all, and hides as many tokens of
each block, so that the loss is steadier. What is hidden is a pure function of a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qat.data.tokens import IGNORED_LABEL
from qat.errors import InputError


@dataclass(frozen=True)
class Masking:
    """Which tokens are hidden and what they are replaced by.

    Attributes:
        mask_id: id of the mask token.
        vocab_size: random tokens are drawn from ``[0, vocab_size)``.
        special_ids: tokens that are never chosen.
        share: share of the tokens that is chosen.
    """

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...] = ()
    share: float = 0.15

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Masking:
        """Read the ids from a transformers tokenizer.

        Raises:
            InputError: if it has no mask token.
        """
        if tokenizer is None or tokenizer.mask_token_id is None:
            raise InputError("a masked_lm model needs a tokenizer with a mask token; this one has none")
        return cls(tokenizer.mask_token_id, len(tokenizer), tuple(sorted(set(tokenizer.all_special_ids))))

    def apply(self, batch: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Hide tokens of ``input_ids`` to train on; ``labels`` keep only the chosen ones, the others become -100.

        Of the chosen tokens 80 % become the mask token, 10 % a random token and 10 % stay as they are. The random
        numbers are drawn on the CPU, so that a seed hides the same tokens on every device.
        """
        tokens, labels = batch["input_ids"].cpu(), batch["labels"].cpu()
        generator = torch.Generator().manual_seed(seed)
        choice = torch.rand(tokens.shape, generator=generator)
        action = torch.rand(tokens.shape, generator=generator)
        random_tokens = torch.randint(self.vocab_size, tokens.shape, generator=generator)
        chosen = (choice < self.share) & self._may_be_hidden(tokens, labels)
        hidden = tokens.masked_fill(chosen & (action < 0.8), self.mask_id)
        hidden = torch.where(chosen & (action >= 0.8) & (action < 0.9), random_tokens, hidden)
        device = batch["input_ids"].device
        return {
            **batch,
            "input_ids": hidden.to(device),
            "labels": labels.masked_fill(~chosen, IGNORED_LABEL).to(device),
        }

    def apply_to_block(self, tokens: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Hide tokens of one block to score; every chosen one becomes the mask token.

        Args:
            tokens: int64[block].
            labels: int64[block].
            seed: decides which tokens are hidden.

        Returns:
            The block with the chosen tokens hidden: :attr:`share` of those that may be, and at least one if any
            may. And its labels, -100 elsewhere.
        """
        candidates = self._may_be_hidden(tokens, labels).nonzero().squeeze(-1)
        count = min(len(candidates), max(1, round(self.share * len(candidates))))
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
        chosen = torch.zeros_like(labels, dtype=torch.bool)
        chosen[candidates[order[:count]]] = True
        return tokens.masked_fill(chosen, self.mask_id), labels.masked_fill(~chosen, IGNORED_LABEL)

    def _may_be_hidden(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Which tokens are trained and not special, bool of the same shape."""
        special = torch.isin(tokens, torch.tensor(self.special_ids, dtype=tokens.dtype))
        return (labels != IGNORED_LABEL) & ~special
