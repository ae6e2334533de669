"""Divergences between a teacher's and a student's distributions, with bounded memory.

Logits over a large vocabulary are the largest tensors of a training step, and a divergence of two of them holds several
float32 copies of both. Here it is worked out for some rows at a time, forward and backward, so that beyond the logits
and their gradient only one chunk is held; the price is that a chunk is worked out twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

_CHUNK = 2**24
"""Numbers of one chunk: 64 MiB in float32."""


def chunk_rows(width: int) -> int:
    """Rows of one chunk, where a row needs ``width`` float32 numbers."""
    return max(1, _CHUNK // width)


def in_chunks(divergence: Callable[..., Tensor], width: int, *tensors: Tensor) -> Tensor:
    """``divergence(*tensors)``, a value a row, without holding what is in between for all rows.

    Args:
        divergence: from tensors of ``n`` rows to ``[n]``, each row for itself.
        width: float32 numbers that one row needs in between.
        tensors: of the same number of rows.
    """
    rows = chunk_rows(width)
    if len(tensors[0]) <= rows:
        return divergence(*tensors)
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.cat([checkpoint(divergence, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL(teacher || student)`` of each row, in nats: logits ``[n, vocabulary] -> [n]`` in float32.

    The factor keeps the gradient on the scale of a cross-entropy's (arXiv:1503.02531, section 2).
    """

    def rows(student: Tensor, teacher: Tensor) -> Tensor:
        student_log = functional.log_softmax(student.float() / temperature, dim=-1)
        teacher_log = functional.log_softmax(teacher.float() / temperature, dim=-1)
        kl = functional.kl_div(student_log, teacher_log, log_target=True, reduction="none").sum(-1)
        return kl * temperature**2

    return in_chunks(rows, student.shape[-1], student, teacher)


def top_k_log_probs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` likeliest outcomes, and the log-probabilities of them and of all others together.

    Args:
        logits: ``[n, vocabulary]``.
        k: at most ``vocabulary``, for which the probability of the others is 0.

    Returns:
        ``(ids, log_probs)``: int64 ``[n, k]`` and float32 ``[n, k + 1]``.
    """
    log_probs = functional.log_softmax(logits.float(), dim=-1)
    top, ids = log_probs.topk(k, dim=-1)
    others = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return ids, torch.cat([top, others], dim=-1)


def top_k_kl(student: Tensor, ids: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """``KL(teacher || student)`` of each row over ``k + 1`` outcomes: the teacher's likeliest, and all others as one.

    Joining outcomes never raises a divergence (the log-sum inequality), so this is a lower bound of the full one,
    and it is equal if ``k`` is the vocabulary.

    Args:
        student: logits ``[n, vocabulary]``.
        ids: int64 ``[n, k]``, see :func:`top_k_log_probs`.
        teacher_log_probs: ``[n, k + 1]``, up to rounding and a constant a row.

    Returns:
        Nats, float32 ``[n]``.
    """

    def rows(student: Tensor, ids: Tensor, teacher: Tensor) -> Tensor:
        student_log = functional.log_softmax(student.float(), dim=-1)
        outcomes = student_log.gather(-1, ids)
        if ids.shape[-1] == student.shape[-1]:
            teacher = teacher[:, :-1]  # there are no others, and nothing to differentiate
        else:
            others = student_log.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
            outcomes = torch.cat([outcomes, others], dim=-1)
        # A stored probability is rounded, so that they do not add up to 1 by themselves.
        teacher = functional.log_softmax(teacher.float(), dim=-1)
        return functional.kl_div(outcomes, teacher, log_target=True, reduction="none").sum(-1)

    return in_chunks(rows, student.shape[-1], student, ids, teacher_log_probs)
