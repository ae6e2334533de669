"""Masked-language-model inputs (BERT, arXiv:1810.04805, section 3.1), a pure function of seed and step."""

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

    Of the chosen tokens 80 % become the mask token, 10 % a random token and 10 % stay as they are.

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
        """Hide tokens of ``input_ids``; ``labels`` keep only the chosen ones, the others become -100.

        The random numbers are drawn on the CPU, so that a seed hides the same tokens on every device.
        """
        tokens, labels = batch["input_ids"].cpu(), batch["labels"].cpu()
        generator = torch.Generator().manual_seed(seed)
        choice = torch.rand(tokens.shape, generator=generator)
        action = torch.rand(tokens.shape, generator=generator)
        random_tokens = torch.randint(self.vocab_size, tokens.shape, generator=generator)
        special = torch.isin(tokens, torch.tensor(self.special_ids, dtype=tokens.dtype))
        chosen = (choice < self.share) & ~special & (labels != IGNORED_LABEL)
        hidden = tokens.masked_fill(chosen & (action < 0.8), self.mask_id)
        hidden = torch.where(chosen & (action >= 0.8) & (action < 0.9), random_tokens, hidden)
        device = batch["input_ids"].device
        return {
            **batch,
            "input_ids": hidden.to(device),
            "labels": labels.masked_fill(~chosen, IGNORED_LABEL).to(device),
        }
