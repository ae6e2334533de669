"""What every kind of traffic gives, and Poisson traffic whose rate changes in steps."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from qat.errors import InputError
from qat.plan.requests import Lengths, Requests

Steps = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Edges in seconds ``[k + 1]`` from 0 to the end, and the rate in requests a second between them ``[k]``."""


class Traffic(ABC):
    """A source of requests."""

    @abstractmethod
    def expected(self, seconds: float, seed: int) -> float:
        """The mean number of requests in ``seconds``."""

    @abstractmethod
    def requests(self, seconds: float, share: float, seed: int) -> Requests:
        """A random ``share`` (0 to 1) of the requests of ``[0, seconds)``; the same for the same ``seed``."""


class SteppedPoisson(Traffic):
    """Poisson arrivals at a rate that is constant between the edges of :meth:`steps`.

    A random share of Poisson traffic is Poisson traffic at that share of the rate (thinning), so a share is drawn
    directly, without drawing the rest.

    Attributes:
        prompt: lengths of the prompts.
        output: lengths of the answers.
    """

    prompt: Lengths
    output: Lengths

    @abstractmethod
    def steps(self, seconds: float, seed: int) -> Steps:
        """The rate over ``[0, seconds)``."""

    def expected(self, seconds: float, seed: int) -> float:
        edges, rates = self.steps(seconds, seed)
        return float(np.sum(np.diff(edges) * rates))

    def requests(self, seconds: float, share: float, seed: int) -> Requests:
        edges, rates = self.steps(seconds, seed)
        generator = np.random.default_rng([seed, 1])
        counts = generator.poisson(np.diff(edges) * rates * share)
        begins, widths = np.repeat(edges[:-1], counts), np.repeat(np.diff(edges), counts)
        arrival = np.sort(begins + widths * generator.random(len(begins)))
        return Requests(
            arrival,
            self.prompt.sample(len(arrival), generator, "traffic.prompt"),
            self.output.sample(len(arrival), generator, "traffic.output"),
        )


def positive(**values: float) -> None:
    """Raise an InputError for the first option of the traffic that is not a positive finite number."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InputError(f"traffic.{name}={value} must be a positive number")
