"""What a loss is, and how outputs and labels are lined up for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from torch import Tensor
from torch.nn import functional

from qat.data.tokens import IGNORED_LABEL
from qat.errors import InputError
from qat.training.outputs import Needs, Output

if TYPE_CHECKING:
    from qat.models.loaded import Task


# A float model that teaches: the base before training, or the base trained on in float for as long.
Teacher: TypeAlias = Literal["base", "tuned_float"]


class Loss(Protocol):
    """A differentiable scalar from one batch, averaged over its trained positions."""

    @property
    def teacher(self) -> Teacher | None:
        """Which float model teaches; None for a loss that needs none."""

    @property
    def top_k(self) -> int | None:
        """None: the teacher runs beside the model. A number: so many of its logits a position come with the batch.

        They are ``teacher_ids`` and ``teacher_log_probs`` of :class:`qat.training.teacher_cache.Taught`.
        """

    @property
    def needs(self) -> Needs:
        """What the loss looks at besides the head, in the model and in a teacher that runs."""

    def check(self, task: Task) -> None:
        """Refuse a task that the loss cannot train.

        Raises:
            InputError: naming the loss to use instead.
        """

    def __call__(
        self, task: Task, batch: dict[str, Tensor], student: Output, teacher: Output | None
    ) -> dict[str, Tensor]:
        """Return ``{"loss": scalar, <part>: scalar, ...}``; parts are logged as they are.

        Args:
            task: says how positions line up with labels.
            batch: ``input_ids`` and ``labels``, int64 ``[batch, block]``; labels are not shifted.
            student: what the model gave.
            teacher: what the teacher gave, without gradient; None if none runs.
        """


def align(task: Task, tensor: Tensor) -> Tensor:
    """Drop the positions of an output ``[batch, block, ...]`` that have no label."""
    return tensor[:, :-1] if task == "causal_lm" else tensor


def targets(task: Task, labels: Tensor) -> Tensor:
    """The label of each aligned position: a causal model's position ``i`` predicts token ``i + 1``."""
    return labels[:, 1:] if task == "causal_lm" else labels


def token_cross_entropy(task: Task, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood in nats (float32) and the number of trained tokens (int64)."""
    wanted = targets(task, labels)
    total = functional.cross_entropy(
        align(task, logits).flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total, (wanted != IGNORED_LABEL).sum()


def mean_cross_entropy(task: Task, labels: Tensor, logits: Tensor) -> Tensor:
    """Nats a trained token; 0 without any."""
    total, count = token_cross_entropy(task, labels, logits)
    return total / count.clamp(min=1)


def trained_mean(task: Task, labels: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values``, one a position in a row, over the positions with a trained label; 0 without any."""
    mask = targets(task, labels) != IGNORED_LABEL
    return (align(task, values.view(labels.shape)) * mask).sum() / mask.sum().clamp(min=1)


def check_teacher(teacher: str) -> None:
    """Refuse what is no teacher.

    Raises:
        InputError: naming the two there are.
    """
    if teacher not in get_args(Teacher):
        raise InputError(f"loss.teacher={teacher!r} must be 'base' or 'tuned_float'")


def check_mix(mix: float) -> None:
    """Refuse what is no share of the divergence.

    Raises:
        InputError: unless ``0 <= mix <= 1``.
    """
    if not 0 <= mix <= 1:
        raise InputError(f"loss.mix={mix} must be from 0 (cross-entropy only) to 1 (teacher only)")


def mixed(mix: float, kl: Tensor, task: Task, batch: dict[str, Tensor], student: Output) -> dict[str, Tensor]:
    """``mix * kl + (1 - mix) * cross_entropy`` with its parts; at mix 1 no cross-entropy is worked out."""
    if mix == 1:
        return {"loss": kl, "kl": kl.detach()}
    ce = mean_cross_entropy(task, batch["labels"], student.head)
    return {"loss": mix * kl + (1 - mix) * ce, "kl": kl.detach(), "ce": ce.detach()}
