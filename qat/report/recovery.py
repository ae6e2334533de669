"""Recovery: the share of what post-training quantization lost that QAT won back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reference = Literal["tuned_float", "base"]


@dataclass(frozen=True)
class Recovery:
    """A recovery, or why there is none.

    Attributes:
        value: 1 is the float reference, 0 is PTQ, below 0 QAT is worse than PTQ; None if it is undefined.
        reason: why ``value`` is None; empty otherwise.
    """

    value: float | None
    reason: str = ""


def reference(base_loss: float, tuned_float_loss: float | None) -> Reference:
    """Which float model the recovery is measured against, and whose PTQ it takes.

    QAT is also more training, so the honest reference is the float model trained on for the same steps. Where
    that is worse than the base (too high a rate, other data), or was not trained, the base takes its place in
    both terms.
    """
    return "base" if tuned_float_loss is None or tuned_float_loss > base_loss else "tuned_float"


def recovery(ptq_loss: float, qat_loss: float, float_loss: float) -> Recovery:
    """``(loss of PTQ(float) - loss of QAT) / (loss of PTQ(float) - loss of float)``.

    Args:
        ptq_loss: nats a token of PTQ of the model that :func:`reference` names.
        qat_loss: nats a token of the QAT model.
        float_loss: nats a token of the model that :func:`reference` names.

    Example:
        >>> recovery(ptq_loss=1.66, qat_loss=1.54, float_loss=1.50).value  # doctest: +ELLIPSIS
        0.75...
    """
    lost = ptq_loss - float_loss
    if not lost > 0:
        return Recovery(None, f"PTQ lost nothing (loss {ptq_loss:.4f}, float {float_loss:.4f})")
    return Recovery((ptq_loss - qat_loss) / lost)
