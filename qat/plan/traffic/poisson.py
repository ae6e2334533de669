"""Requests at a constant mean rate, each independent of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qat.plan.requests import Lengths
from qat.plan.traffic.base import SteppedPoisson, Steps, positive


@dataclass(frozen=True, kw_only=True)
class Poisson(SteppedPoisson):
    """Poisson traffic.

    Args:
        requests_per_second: the mean rate.
        prompt: lengths of the prompts.
        output: lengths of the answers.
    """

    requests_per_second: float
    prompt: Lengths
    output: Lengths

    def __post_init__(self) -> None:
        positive(requests_per_second=self.requests_per_second)

    def steps(self, seconds: float, seed: int) -> Steps:
        return np.array([0.0, seconds]), np.array([self.requests_per_second])
