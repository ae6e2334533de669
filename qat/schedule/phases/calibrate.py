"""Let static activations see real data."""

from __future__ import annotations

from dataclasses import dataclass

from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class Calibrate(Phase):
    """The model runs in float and is not trained; the ranges of static activations widen to what they see."""

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(
            self.kind, weights=False, activations=False, observe=True, freeze_weights=True, freeze_ranges=True
        )
