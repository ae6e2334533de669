"""How far a model's predictions are from those of a reference, token by token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_sum(log_probabilities: Tensor, reference: Tensor) -> Tensor:
    """Summed ``KL(reference || model)`` in nats, a float64 scalar.

    Both arguments are log-probabilities, float32[tokens, vocabulary].
    """
    return F.kl_div(log_probabilities, reference, reduction="none", log_target=True).sum(dtype=torch.float64)


def top1_matches(log_probabilities: Tensor, reference: Tensor) -> Tensor:
    """How many tokens have the same most probable successor in both (int64 scalar)."""
    return (log_probabilities.argmax(-1) == reference.argmax(-1)).sum()


def cosine_sum(hidden: Tensor, reference: Tensor) -> Tensor:
    """Summed cosine similarity of hidden states [tokens, width], float64 scalar."""
    return F.cosine_similarity(hidden.float(), reference.float(), dim=-1).sum(dtype=torch.float64)


def squared_error_sum(hidden: Tensor, reference: Tensor) -> Tensor:
    """Squared error of hidden states [tokens, width], mean over the width, summed over tokens, float64."""
    return (hidden.float() - reference.float()).pow(2).mean(-1).sum(dtype=torch.float64)
