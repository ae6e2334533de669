"""Move from float to quantized values smoothly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qat.errors import InputError, nearest
from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState

CURVES = ("linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class Blend(Phase):
    """Every fake quantizer is on and gives ``(1 - mix) * float + mix * quantized``.

    ``mix`` rises from just above 0 to 1.

    Method: Liu and Mattina, "Learning low-precision neural networks without Straight-Through Estimator(STE)"
    (alpha-blending), arXiv:1903.01061.

    Attributes:
        curve: ``linear``, or ``cosine``, which starts and ends slowly: ``(1 - cos(pi * progress)) / 2``.

    Raises:
        InputError: for another curve.
    """

    curve: Literal["linear", "cosine"] = "linear"

    def validate(self) -> None:
        if self.curve not in CURVES:
            hint = nearest(self.curve, CURVES)
            raise InputError(f"{self.kind}: curve={self.curve} must be linear or cosine{hint}")

    def state(self, progress: float) -> PrecisionState:
        mix = progress if self.curve == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return PrecisionState(self.kind, mix=mix)
