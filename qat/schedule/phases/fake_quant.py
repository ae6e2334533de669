"""Train with every fake quantizer on: the main phase of most recipes."""

from __future__ import annotations

from dataclasses import dataclass

from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class FakeQuant(Phase):
    """Weights and activations are fake-quantized as the scheme says; weights and clip ranges are trained."""

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind)
