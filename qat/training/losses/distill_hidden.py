"""Distillation of what goes on inside the model too, for weights of 3 bits and less."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from qat.errors import InputError
from qat.training.losses.base import Teacher, check_teacher, trained_mean
from qat.training.losses.divergence import forward_kl, in_chunks
from qat.training.outputs import Needs, Output

if TYPE_CHECKING:
    from qat.models.loaded import Task


class DistillHidden:
    """``kl * KL + hidden * error + relations * divergence``: logits, hidden states and attention relations.

    At few bits the logits alone say little about which of many layers went wrong. TernaryBERT (arXiv:2009.12812,
    section 3.3) adds the error of every block's hidden states, here in proportion to their size; the relations are
    those of MiniLMv2 (arXiv:2012.15828, section 3): the softmax of the scaled products of one block's queries with
    each other, keys with each other and values with each other, compared by forward KL. They need no
    attention scores, so that every implementation of attention will do.

    Both are taken at every position, trained or not: the positions after it look at it.

    Args:
        kl: weight of the divergence of the logits over the trained positions; 0 for an encoder, which has none.
        hidden: weight of the error of the hidden states.
        relations: weight of the mean of the three relations' divergences.
        relation_block: whose relations; -1 is the last block.
        relation_width: numbers of a query, key or value that make one relation head.
        teacher: which float model teaches: the base before training, or the tuned float.

    Raises:
        InputError: if a weight is below 0, none is above, or a number is out of range.
    """

    top_k = None

    def __init__(
        self,
        kl: float = 1.0,
        hidden: float = 1.0,
        relations: float = 0.0,
        relation_block: int = -1,
        relation_width: int = 16,
        teacher: Teacher = "base",
    ) -> None:
        weights = {"kl": kl, "hidden": hidden, "relations": relations}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise InputError(f"loss.{name}={weight} must be 0 or more")
        if not any(weights.values()):
            raise InputError("loss.kl, loss.hidden and loss.relations are all 0; set one above 0")
        if relation_width < 1:
            raise InputError(f"loss.relation_width={relation_width} must be 1 or more")
        check_teacher(teacher)
        self.kl, self.hidden, self.relations = kl, hidden, relations
        self.relation_width = relation_width
        self.teacher = teacher
        self.needs = Needs(hidden_states=hidden > 0, attention_of=relation_block if relations > 0 else None)

    def check(self, task: Task) -> None:
        """Refuse a divergence of logits for an encoder.

        Raises:
            InputError: an encoder gives hidden states, not token logits.
        """
        if task == "encoder" and self.kl:
            raise InputError(f"loss.kl={self.kl} compares token logits and an encoder has none; set loss.kl=0")

    def __call__(
        self, task: Task, batch: dict[str, Tensor], student: Output, teacher: Output | None
    ) -> dict[str, Tensor]:
        """See :class:`qat.training.losses.base.Loss`; parts are ``kl``, ``hidden`` and ``relations``, unweighted."""
        assert teacher is not None, "the module gives what the loss names as its teacher"
        parts: dict[str, tuple[float, Tensor]] = {}
        if self.kl:
            divergence = forward_kl(student.head.flatten(0, 1), teacher.head.flatten(0, 1))
            parts["kl"] = self.kl, trained_mean(task, batch["labels"], divergence)
        if self.hidden:
            pairs = zip(student.hidden_states, teacher.hidden_states, strict=True)
            parts["hidden"] = self.hidden, torch.stack([normalized_error(*pair) for pair in pairs]).mean()
        if self.relations:
            causal, width = task == "causal_lm", self.relation_width
            both = zip(student.projections, teacher.projections, strict=True)
            each = [relation_divergence(*pair, width=width, causal=causal) for pair in both]
            parts["relations"] = self.relations, torch.stack(each).mean()
        loss = torch.stack([weight * value for weight, value in parts.values()]).sum()
        return {"loss": loss} | {name: value.detach() for name, (_, value) in parts.items()}


def normalized_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of ``|student - teacher|^2 / |teacher|^2``; ``[..., hidden]`` each, to a float32 scalar.

    Hidden states grow with depth, and some positions have huge ones: unscaled, those would be all that counts.
    """
    wanted = teacher.float()
    error = (student.float() - wanted).square().sum(-1)
    return (error / wanted.square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)).mean()


def relation_divergence(student: Tensor, teacher: Tensor, width: int, causal: bool) -> Tensor:
    """Mean ``KL(teacher's relations || student's)`` of queries, keys or values (arXiv:2012.15828, eq. 2 to 4).

    A relation head's are ``softmax(x x^T / sqrt(width))`` of its slice ``x`` ``[block, width]``.

    Args:
        student: ``[batch, block, heads * width]``.
        teacher: the same shape.
        width: of a relation head.
        causal: a position is related to itself and those before it only.

    Returns:
        Nats a position and head, a float32 scalar.

    Raises:
        InputError: if ``width`` does not divide what there is.
    """
    if student.shape[-1] % width:
        raise InputError(
            f"loss.relation_width={width} does not divide {student.shape[-1]}, the size of the model's queries, "
            "keys or values; choose a divisor"
        )

    def heads(tensor: Tensor) -> Tensor:  # [batch, block, heads * width] -> [batch * heads, block, width]
        return tensor.unflatten(-1, (-1, width)).transpose(1, 2).flatten(0, 1)

    def rows(student: Tensor, teacher: Tensor) -> Tensor:
        student_log, teacher_log = (_log_relations(tensor.float(), causal) for tensor in (student, teacher))
        return functional.kl_div(student_log, teacher_log, log_target=True, reduction="none").sum(-1).mean(-1)

    return in_chunks(rows, student.shape[1] ** 2, heads(student), heads(teacher)).mean()


def _log_relations(x: Tensor, causal: bool) -> Tensor:
    """``log softmax(x x^T / sqrt(width))``: ``[heads, block, width] -> [heads, block, block]``."""
    scores = x @ x.transpose(1, 2) / math.sqrt(x.shape[-1])
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)  # not -inf: 0 * (inf - inf) is no number
    return functional.log_softmax(scores.float(), dim=-1)
