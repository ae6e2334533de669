"""Calm traffic with bursts: a Markov-modulated Poisson process with two states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qat.errors import InputError
from qat.plan.requests import Lengths
from qat.plan.traffic.base import SteppedPoisson, Steps, positive


@dataclass(frozen=True, kw_only=True)
class Bursty(SteppedPoisson):
    """Poisson traffic that jumps between a calm and a burst rate after exponentially distributed times.

    The bursts depend on the seed alone, so every share of the traffic has the same ones.

    Args:
        calm_requests_per_second: mean rate outside bursts.
        burst_requests_per_second: mean rate in a burst.
        mean_calm_seconds: mean time between bursts.
        mean_burst_seconds: mean length of a burst.
        prompt: lengths of the prompts.
        output: lengths of the answers.
    """

    calm_requests_per_second: float
    burst_requests_per_second: float
    mean_calm_seconds: float
    mean_burst_seconds: float
    prompt: Lengths
    output: Lengths

    def __post_init__(self) -> None:
        positive(
            calm_requests_per_second=self.calm_requests_per_second,
            mean_calm_seconds=self.mean_calm_seconds,
            mean_burst_seconds=self.mean_burst_seconds,
        )
        if not self.burst_requests_per_second > self.calm_requests_per_second:
            raise InputError(
                f"traffic.burst_requests_per_second={self.burst_requests_per_second} must be above "
                f"traffic.calm_requests_per_second={self.calm_requests_per_second}"
            )

    def steps(self, seconds: float, seed: int) -> Steps:
        generator = np.random.default_rng([seed, 2])
        means = self.mean_calm_seconds, self.mean_burst_seconds
        times, states, burst = [0.0], [], False
        while times[-1] < seconds:
            states.append(burst)
            times.append(times[-1] + generator.exponential(means[burst]))
            burst = not burst
        times[-1] = seconds
        return np.array(times), np.where(states, self.burst_requests_per_second, self.calm_requests_per_second)
