"""Knowledge distillation from the float model (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from torch import Tensor
from torch.nn import functional

from qat.data.tokens import IGNORED_LABEL
from qat.errors import InputError
from qat.training.losses.base import Teacher, align, masked_mean, targets, token_cross_entropy

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

    def __init__(
        self,
        temperature: float = 1.0,
        mix: float = 1.0,
        teacher: Teacher = "base",
    ) -> None:
        if temperature <= 0:
            raise InputError(f"loss.temperature={temperature} must be above 0; 1.0 is the usual choice")
        if not 0 <= mix <= 1:
            raise InputError(f"loss.mix={mix} must be from 0 (cross-entropy only) to 1 (teacher only)")
        if teacher not in get_args(Teacher):
            raise InputError(f"loss.teacher={teacher!r} must be 'base' or 'tuned_float'")
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
        self, task: Task, batch: dict[str, Tensor], output: Tensor, teacher_output: Tensor | None
    ) -> dict[str, Tensor]:
        """See :class:`qat.training.losses.base.Loss`; parts are ``kl`` and ``ce``, or ``mse``."""
        assert teacher_output is not None, "the module gives what the loss names as its teacher"
        mask = targets(task, batch["labels"]) != IGNORED_LABEL
        student, teacher = align(task, output).float(), align(task, teacher_output).float()
        if task == "encoder":
            mse = masked_mean((student - teacher).square().mean(-1), mask)
            return {"loss": mse, "mse": mse.detach()}
        kl = masked_mean(self._divergence(student, teacher), mask)
        parts = {"kl": kl.detach()}
        loss = self.mix * kl
        if self.mix < 1:
            total, count = token_cross_entropy(task, batch["labels"], output)
            ce = total / count.clamp(min=1)
            loss = loss + (1 - self.mix) * ce
            parts["ce"] = ce.detach()
        return {"loss": loss, **parts}

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``T^2 * KL(teacher || student)`` a position, in nats: ``[..., vocabulary] -> [...]``."""
        student_log = functional.log_softmax(student / self.temperature, dim=-1)
        teacher_log = functional.log_softmax(teacher / self.temperature, dim=-1)
        kl = functional.kl_div(student_log, teacher_log, log_target=True, reduction="none").sum(-1)
        return kl * self.temperature**2
