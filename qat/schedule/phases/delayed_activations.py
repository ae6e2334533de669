"""Quantize the weights at once and the activations later."""

from __future__ import annotations

from dataclasses import dataclass

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class DelayedActivations(Phase):
    """Weights are quantized from the start, activations after ``delay`` of the phase.

    Method: the two-stage optimization of Zhuang et al., arXiv:1711.00205 (first weights, then activations).

    Attributes:
        delay: share of the phase, 0 or more and below 1, during which activations stay float.

    Raises:
        InputError: if ``delay`` is out of range.
    """

    delay: float = 0.5

    def validate(self) -> None:
        if not 0 <= self.delay < 1:
            raise InputError(f"{self.kind}: delay={self.delay} must be 0 or more and below 1")

    @property
    def edges(self) -> tuple[float, ...]:
        return (self.delay,)

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, activations=self.part(progress) == 1)
