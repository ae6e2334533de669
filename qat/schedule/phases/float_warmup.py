"""Train in float before anything is quantized."""

from __future__ import annotations

from dataclasses import dataclass

from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class FloatWarmup(Phase):
    """Plain float training: no fake quantizer is on and no clip range moves."""

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, weights=False, activations=False)
