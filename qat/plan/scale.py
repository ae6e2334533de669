"""Cells: how the traffic of millions of users is simulated by following some of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

MIN_PLACES = 8
"""A thinned replica keeps at least this many places, so that it still evens out its requests."""


@dataclass(frozen=True)
class Scale:
    """The simulated part of the traffic is 1 / (``cells`` · ``grain``).

    Args:
        cells: the users are split over so many equal pools that do not share replicas. One is simulated, and its
            replicas and its cost count ``cells`` times.
        grain: of every ``grain`` requests one is simulated, on replicas that have 1 / ``grain`` of their places.
            Replicas and their cost count once.
    """

    cells: int = 1
    grain: int = 1

    @property
    def factor(self) -> int:
        """How many requests each simulated one stands for."""
        return self.cells * self.grain

    @classmethod
    def choose(cls, expected: float, places: int, max_requests: int) -> Scale:
        """The smallest scale that simulates about ``max_requests`` of ``expected`` requests.

        Grain comes first: it leaves the number of replicas as it is, where every cell rounds up to whole ones.
        """
        factor = max(1, ceil(expected / max_requests))
        grains = [grain for grain in range(1, places // MIN_PLACES + 1) if places % grain == 0]
        cells, grain = min((ceil(factor / grain), grain) for grain in grains or [1])
        return cls(cells, grain)
