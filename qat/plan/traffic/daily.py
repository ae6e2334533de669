"""Users who ask more by day than by night."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from qat.errors import InputError
from qat.plan.requests import Lengths
from qat.plan.traffic.base import SteppedPoisson, Steps, positive

HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Daily(SteppedPoisson):
    """Poisson traffic whose rate changes every hour and repeats every day.

    Args:
        users: how many people use the service.
        requests_per_user: mean requests of one user in a day.
        curve: 24 weights, one an hour from midnight; only their proportions count.
        prompt: lengths of the prompts.
        output: lengths of the answers.
    """

    users: int
    requests_per_user: float
    curve: tuple[float, ...]
    prompt: Lengths
    output: Lengths

    def __post_init__(self) -> None:
        positive(users=self.users, requests_per_user=self.requests_per_user)
        if (
            len(self.curve) != 24
            or any(not isfinite(weight) or weight < 0 for weight in self.curve)
            or not sum(self.curve)
        ):
            raise InputError(
                f"traffic.curve={list(self.curve)} must be 24 weights of at least 0, one an hour, that are not all 0"
            )

    def steps(self, seconds: float, seed: int) -> Steps:
        weights = np.asarray(self.curve, dtype=np.float64)
        hourly = weights / weights.sum() * self.users * self.requests_per_user / HOUR
        edges = np.append(np.arange(0.0, seconds, HOUR), seconds)
        return edges, np.resize(hourly, len(edges) - 1)
