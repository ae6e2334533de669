"""Loss in nats a token, and what is predicted from what.

Protocol: the text is cut into blocks of ``block_size`` tokens that do not overlap, and a token is predicted
from the tokens before it in its own block, so stride = context = ``block_size``. The first token of a block
is never predicted, nor is a label of -100. The loss is the mean over tokens (not over blocks), from a float32
log-softmax; ``perplexity = exp(loss)``. This is token-perplexity: it cannot be compared between tokenizers,
nor with word-perplexity.

A masked language model is scored on 15 % of the tokens of each block that are not special (CLS, SEP), replaced by
the mask token, see :mod:`qat.data.masking`. Which tokens those are depends on ``seed`` and the index of the block
only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat.data.masking import Masking
from qat.data.tokens import IGNORED_LABEL
from qat.models.loaded import Task


def predicted(task: Task, predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs at the positions that are scored, and the tokens that belong there.

    Args:
        task: ``causal_lm`` shifts by one: position ``t`` predicts label ``t + 1``.
        predictions: [batch, length, width].
        labels: int64[batch, length], not shifted; -100 is not scored.

    Returns:
        ``[tokens, width]`` and ``int64[tokens]``.
    """
    if task == "causal_lm":
        predictions, labels = predictions[:, :-1], labels[:, 1:]
    kept = labels != IGNORED_LABEL
    return predictions[kept], labels[kept]


def loss_sum(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Summed negative log-likelihood in nats, float64 scalar.

    Args:
        log_probabilities: float32[tokens, vocabulary].
        targets: int64[tokens].
    """
    return -log_probabilities.gather(-1, targets.unsqueeze(-1)).sum(dtype=torch.float64)


def mask_tokens(
    input_ids: Tensor, labels: Tensor, first_block: int, masking: Masking, seed: int
) -> tuple[Tensor, Tensor]:
    """Hide tokens of each block of a batch; labels keep only the hidden ones, the others become -100.

    Args:
        input_ids: int64[batch, length].
        labels: int64[batch, length].
        first_block: index of the first block of the batch.
        masking: which tokens may be hidden, and by what.
        seed: together with the block's index it decides the positions.
    """
    rows = zip(input_ids, labels, strict=True)
    blocks = [masking.apply_to_block(*row, _mix(seed, first_block + index)) for index, row in enumerate(rows)]
    hidden, kept = zip(*blocks, strict=True)
    return torch.stack(hidden), torch.stack(kept)


def _mix(seed: int, block: int) -> int:
    """One 63-bit number from two, so that (seed 1, block 0) and (seed 0, block 1) do not share a mask."""
    return (seed * 0x9E3779B97F4A7C15 + block * 0xBF58476D1CE4E5B9) & (2**63 - 1)
