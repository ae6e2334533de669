"""Knowledge distillation from the float model (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from qat.errors import InputError
from qat.training.losses.base import Teacher, check_mix, check_teacher, mixed, trained_mean
from qat.training.losses.divergence import forward_kl
from qat.training.outputs import Needs, Output

if TYPE_CHECKING:
    from qat.models.loaded import Task


class Distill:
    """``mix * T^2 * KL(teacher || student) + (1 - mix) * cross_entropy`` over the trained positions.

    The divergence is the forward one, over the whole vocabulary, of both distributions softened by ``T``;
    the factor ``T^2`` keeps its gradients on the scale of the cross-entropy's (arXiv:1503.02531, section 2).
    An encoder has no distribution: its loss is the mean squared error of the last hidden states.

    Args:
        temperature: ``T``, above 0; 1 compares the distributions as they are.
        mix: share of the divergence, 0 to 1; the rest is cross-entropy with the labels.
        teacher: which float model teaches: the base before training, or the tuned float.

    Raises:
        InputError: if an option is outside its range.
    """

    top_k = None
    needs = Needs()

    def __init__(
        self,
        temperature: float = 1.0,
        mix: float = 1.0,
        teacher: Teacher = "base",
    ) -> None:
        if temperature <= 0:
            raise InputError(f"loss.temperature={temperature} must be above 0; 1.0 is the usual choice")
        check_mix(mix)
        check_teacher(teacher)
        self.temperature = temperature
        self.mix = mix
        self.teacher = teacher

    def check(self, task: Task) -> None:
        """Refuse a mix with cross-entropy for an encoder.

        Raises:
            InputError: an encoder gives hidden states, not token logits.
        """
        if task == "encoder" and self.mix != 1:
            raise InputError(
                f"loss.mix={self.mix} adds cross-entropy and an encoder has no token logits; set loss.mix=1"
            )

    def __call__(
        self, task: Task, batch: dict[str, Tensor], student: Output, teacher: Output | None
    ) -> dict[str, Tensor]:
        """See :class:`qat.training.losses.base.Loss`; parts are ``kl`` and ``ce``, or ``mse``."""
        assert teacher is not None, "the module gives what the loss names as its teacher"
        if task == "encoder":
            errors = (student.head.float() - teacher.head.float()).square().mean(-1)
            mse = trained_mean(task, batch["labels"], errors)
            return {"loss": mse, "mse": mse.detach()}
        # All positions are worked out, those without a label too: to cut them off would copy both tensors.
        divergence = forward_kl(student.head.flatten(0, 1), teacher.head.flatten(0, 1), self.temperature)
        return mixed(self.mix, trained_mean(task, batch["labels"], divergence), task, batch, student)
