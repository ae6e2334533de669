"""What a loss is, and how outputs and labels are lined up for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from torch import Tensor
from torch.nn import functional

from qat.data.tokens import IGNORED_LABEL

if TYPE_CHECKING:
    from qat.models.loaded import Task


# A float model that teaches: the base before training, or the base trained on in float for as long.
Teacher: TypeAlias = Literal["base", "tuned_float"]


class Loss(Protocol):
    """A differentiable scalar from one batch, averaged over its trained positions."""

    @property
    def teacher(self) -> Teacher | None:
        """Which float model gives ``teacher_output``; None for a loss that needs none."""

    def check(self, task: Task) -> None:
        """Refuse a task that the loss cannot train.

        Raises:
            InputError: naming the loss to use instead.
        """

    def __call__(
        self, task: Task, batch: dict[str, Tensor], output: Tensor, teacher_output: Tensor | None
    ) -> dict[str, Tensor]:
        """Return ``{"loss": scalar, <part>: scalar, ...}``; parts are logged as they are.

        Args:
            task: says how positions line up with labels.
            batch: ``input_ids`` and ``labels``, int64 ``[batch, block]``; labels are not shifted.
            output: logits ``[batch, block, vocabulary]``, or hidden states ``[batch, block, hidden]``
                when the task is ``encoder``.
            teacher_output: the teacher's tensor of the same shape, without gradient; None without a teacher.
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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` holds; 0 when it holds nowhere (a block without trained tokens)."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
