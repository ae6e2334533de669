"""Cross-entropy of the labelled tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from qat.errors import InputError
from qat.training.losses.base import token_cross_entropy

if TYPE_CHECKING:
    from qat.models.loaded import Task


class CrossEntropy:
    """Mean negative log-likelihood of the trained tokens, in nats a token, computed in float32.

    A batch without any trained token gives 0.
    """

    teacher = None

    def check(self, task: Task) -> None:
        """Refuse an encoder.

        Raises:
            InputError: an encoder gives hidden states, not token logits.
        """
        if task == "encoder":
            raise InputError(
                "loss=cross_entropy needs token logits and an encoder gives hidden states; use loss=distill"
            )

    def __call__(
        self, task: Task, batch: dict[str, Tensor], output: Tensor, teacher_output: Tensor | None
    ) -> dict[str, Tensor]:
        """See :class:`qat.training.losses.base.Loss`."""
        total, count = token_cross_entropy(task, batch["labels"], output)
        return {"loss": total / count.clamp(min=1)}
