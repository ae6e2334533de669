"""Distillation from the teacher's likeliest tokens, which were written to disk before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from qat.errors import InputError
from qat.training.losses.base import Teacher, check_mix, check_teacher, mixed, trained_mean
from qat.training.losses.divergence import top_k_kl
from qat.training.outputs import Needs, Output

if TYPE_CHECKING:
    from qat.models.loaded import Task


class DistillTopK:
    """``mix * KL(teacher || student) + (1 - mix) * cross_entropy``, with no teacher in memory while training.

    The divergence is over ``k + 1`` outcomes: the teacher's ``k`` likeliest tokens, and all others as one. So it is
    well defined (dropping the others would have the student put no weight on them, whatever the teacher says), a
    lower bound of the full divergence, and equal to it if ``k`` is the vocabulary.

    Args:
        k: tokens kept a position, 1 or more. A position takes ``k * 4 + 2`` bytes on disk, ``k * 6 + 2`` with a
            vocabulary above 65,536.
        mix: share of the divergence, 0 to 1; the rest is cross-entropy with the labels.
        teacher: which float model teaches: the base before training, or the tuned float.

    Raises:
        InputError: if an option is outside its range.
    """

    needs = Needs()

    def __init__(self, k: int = 64, mix: float = 1.0, teacher: Teacher = "base") -> None:
        if k < 1:
            raise InputError(f"loss.k={k} must be 1 or more; 64 is a usual choice")
        check_mix(mix)
        check_teacher(teacher)
        self.top_k = k
        self.mix = mix
        self.teacher = teacher

    def check(self, task: Task) -> None:
        """Refuse a task whose teacher cannot be asked beforehand.

        Raises:
            InputError: naming the loss to use instead.
        """
        if task != "causal_lm":
            why = "hides other tokens at each step" if task == "masked_lm" else "has no token logits"
            raise InputError(
                f"loss=distill_top_k stores the teacher's logits and a {task} model {why}; use loss=distill"
            )

    def __call__(
        self, task: Task, batch: dict[str, Tensor], student: Output, teacher: Output | None
    ) -> dict[str, Tensor]:
        """See :class:`qat.training.losses.base.Loss`; parts are ``kl`` and ``ce``."""
        rows = (student.head, batch["teacher_ids"], batch["teacher_log_probs"])
        divergence = top_k_kl(*(tensor.flatten(0, 1) for tensor in rows))
        return mixed(self.mix, trained_mean(task, batch["labels"], divergence), task, batch, student)
