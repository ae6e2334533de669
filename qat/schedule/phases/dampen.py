"""Draw weights to their grid points, so that they stop to flip between two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class Dampen(Phase):
    """Everything is quantized and trained, and the loss has ``strength * sum (clip(w) - q(w))^2`` added.

    A weight near the border of two codes flips between them at almost every step, whatever it gains; the addend pulls
    it to the point of the grid that it has. A clipped weight has none. The factor rises from just above 0 to
    ``strength`` along a cosine: early flips are how a weight finds its code, late ones are noise.

    Method: oscillation dampening of Nagel et al., arXiv:2203.11086, which finds the rising factor to be the better
    one. It keeps nothing between two steps, unlike their iterative freezing.

    Attributes:
        strength: the factor at the end of the phase, above 0.

    Raises:
        InputError: if ``strength`` is out of range.
    """

    strength: float = 0.01

    def validate(self) -> None:
        if not 0 < self.strength < math.inf:
            raise InputError(f"{self.kind}: strength={self.strength} must be above 0")

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, dampening=self.strength * (1 - math.cos(math.pi * progress)) / 2)
