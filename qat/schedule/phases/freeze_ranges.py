"""Train the weights against clip ranges that no longer move."""

from __future__ import annotations

from dataclasses import dataclass

from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class FreezeRanges(Phase):
    """Everything is quantized and the weights are trained; the clip ranges keep the values they have."""

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, freeze_ranges=True)
