"""Loss and agreement with a reference in one pass over the blocks, since the forward pass is what costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from qat.data.masking import Masking
from qat.errors import InputError, RunError
from qat.evaluate.agreement import cosine_sum, kl_sum, squared_error_sum, top1_matches
from qat.evaluate.forward import Forward, check_task, evaluating, outputs
from qat.evaluate.perplexity import loss_sum, mask_tokens, predicted
from qat.models.loaded import Task

_NUMBERS_AT_ONCE = 1 << 24
"""Numbers in one float32 log-softmax (64 MiB): a 128k vocabulary never needs a whole batch of it at once."""


class Blocks(Sized, Protocol):
    """``qat.data``'s TokenBlocks: ``{"input_ids": int64[block], "labels": int64[block]}`` by index."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Block ``index``."""


@dataclass(frozen=True)
class Score:
    """What one pass measured.

    Attributes:
        tokens: predicted tokens (of an encoder: positions).
        loss: mean nats a token; None for an encoder.
        perplexity: exp(loss).
        top1_agreement: share of tokens whose most probable prediction is the reference's; None without one.
        kl: mean KL(reference || model) in nats a token.
        cosine: mean cosine similarity of hidden states to the reference's; encoders only.
        mse: mean squared error of hidden states; encoders only.
    """

    tokens: int
    loss: float | None = None
    perplexity: float | None = None
    top1_agreement: float | None = None
    kl: float | None = None
    cosine: float | None = None
    mse: float | None = None


def score(
    model: nn.Module | Forward,
    blocks: Blocks,
    batch_size: int,
    task: str = "causal_lm",
    reference: nn.Module | Forward | None = None,
    masking: Masking | None = None,
    seed: int = 0,
) -> Score:
    """Measure ``model`` on ``blocks``; the protocol is in :mod:`qat.evaluate.perplexity`.

    Args:
        model: a module with Hugging Face outputs, or a function from token ids to logits (an engine).
        blocks: packed token blocks; every block is used once, the last batch may be smaller.
        batch_size: blocks in one forward pass. It does not change the protocol.
        task: ``causal_lm``, ``masked_lm`` or ``encoder``.
        reference: the float model for ``top1_agreement`` and ``kl`` (``cosine`` and ``mse`` of an encoder).
        masking: which tokens are hidden from a ``masked_lm``, and needed for it.
        seed: of the mask of ``masked_lm``.

    Raises:
        InputError: nothing to score, an unknown task, no masking, or an encoder without a reference.
        RunError: the loss is not finite.

    Example:
        >>> score(quantized, test_blocks, batch_size=8, reference=float_model).perplexity
    """
    kind = check_task(task)
    if kind == "masked_lm" and masking is None:
        raise InputError("a masked language model is scored on masked tokens: masking is needed")
    if kind == "encoder" and reference is None:
        raise InputError("an encoder predicts no tokens: give the float model as reference to compare with")
    totals: dict[str, float] = {}
    tokens = 0
    with evaluating(model, reference):
        for first_block, input_ids, labels in _batches(blocks, batch_size):
            if kind == "masked_lm":
                assert masking is not None
                input_ids, labels = mask_tokens(input_ids, labels, first_block, masking, seed)
            sums, count = _batch_sums(model, reference, kind, input_ids, labels)
            for name, value in sums.items():
                if not math.isfinite(value):
                    raise RunError(
                        f"{name} is {value} in blocks {first_block} to {first_block + len(input_ids) - 1}: "
                        "the model's outputs are not finite"
                    )
                totals[name] = totals.get(name, 0.0) + value
            tokens += count
    if tokens == 0:
        raise InputError("no token to score: the blocks are empty or every label is -100")
    means = {name: total / tokens for name, total in totals.items()}
    if "loss" in means:
        means["perplexity"] = perplexity(means["loss"])
    return Score(tokens=tokens, **means)


def _batches(blocks: Blocks, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """``(index of the first block, input_ids [batch, length], labels [batch, length])``."""
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    for first in range(0, len(blocks), batch_size):
        rows = [blocks[index] for index in range(first, min(first + batch_size, len(blocks)))]
        input_ids, labels = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels"))
        yield first, input_ids, labels


def _batch_sums(
    model: nn.Module | Forward,
    reference: nn.Module | Forward | None,
    task: Task,
    input_ids: Tensor,
    labels: Tensor,
) -> tuple[dict[str, float], int]:
    """Sums over the scored tokens of one batch, and how many those are."""
    got = outputs(model, input_ids)
    kept, targets = predicted(task, got, labels.to(got.device))
    wanted = None
    if reference is not None:
        other = outputs(reference, input_ids).to(got.device)
        wanted, _ = predicted(task, other, labels.to(got.device))
    size = max(1, _NUMBERS_AT_ONCE // got.shape[-1])
    sums: dict[str, float] = {}
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        chunk = _chunk_sums(task, kept[part], targets[part], None if wanted is None else wanted[part])
        for name, value in chunk.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return sums, len(targets)


def _chunk_sums(task: Task, got: Tensor, targets: Tensor, wanted: Tensor | None) -> dict[str, Tensor]:
    if task == "encoder":
        assert wanted is not None
        return {"cosine": cosine_sum(got, wanted), "mse": squared_error_sum(got, wanted)}
    log_probabilities = got.float().log_softmax(-1)
    sums = {"loss": loss_sum(log_probabilities, targets)}
    if wanted is not None:
        reference = wanted.float().log_softmax(-1)
        sums["kl"] = kl_sum(log_probabilities, reference)
        sums["top1_agreement"] = top1_matches(log_probabilities, reference)
    return sums


def perplexity(loss: float) -> float:
    """exp(loss), infinite where a float cannot hold it (a loss above 709 nats)."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
