"""Cross-entropy of the labelled tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from qat.errors import InputError
from qat.training.losses.base import mean_cross_entropy
from qat.training.outputs import Needs, Output

if TYPE_CHECKING:
    from qat.models.loaded import Task


class CrossEntropy:
    """Mean negative log-likelihood of the trained tokens, in nats a token, computed in float32.

    A batch without any trained token gives 0.
    """

    teacher = None
    top_k = None
    needs = Needs()

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
        self, task: Task, batch: dict[str, Tensor], student: Output, teacher: Output | None
    ) -> dict[str, Tensor]:
        """See :class:`qat.training.losses.base.Loss`."""
        return {"loss": mean_cross_entropy(task, batch["labels"], student.head)}
