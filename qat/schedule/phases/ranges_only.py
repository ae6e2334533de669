"""Train the clip ranges end to end against weights that no longer move."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class RangesOnly(Phase):
    """Everything is quantized; the clip ranges are trained and every other parameter keeps its value.

    Weights get no gradient, so that the step needs no memory for one. Method: E2E-QP, the second phase of EfficientQAT
    (arXiv:2407.11062, section 3.3). There the integers are fixed and only their step sizes move; here the
    float weights are fixed, and a weight may change its integer with its range.

    Attributes:
        rate: factor on the learning rates: the paper's is 2e-5 end to end, and 1e-4 block by block.

    Raises:
        InputError: if ``rate`` is below 0.
    """

    rate: float = 1.0

    def validate(self) -> None:
        if not 0 <= self.rate < math.inf:
            raise InputError(f"{self.kind}: rate={self.rate} must be 0 or more")

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, freeze_weights=True, lr_scale=self.rate)
