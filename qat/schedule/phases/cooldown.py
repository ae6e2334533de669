"""End a run with falling learning rates, so that codes settle."""

from __future__ import annotations

from dataclasses import dataclass

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class Cooldown(Phase):
    """Everything is quantized and trained; the learning rates fall linearly to ``final`` times their value.

    Attributes:
        final: factor on the rates at the last step, 0 to 1.

    Raises:
        InputError: if ``final`` is out of range.
    """

    final: float = 0.1

    def validate(self) -> None:
        if not 0 <= self.final <= 1:
            raise InputError(f"{self.kind}: final={self.final} must be from 0 to 1")

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, lr_scale=(1 - progress) + progress * self.final)
