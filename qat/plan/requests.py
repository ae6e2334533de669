"""Requests: when they arrive and how many tokens they read and write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from qat.errors import InputError

DAY = 86_400.0
"""Seconds in a day."""


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests in the order of their arrival.

    Attributes:
        arrival: float64 ``[n]``, seconds from the start, ascending.
        prompt: int64 ``[n]``, tokens read.
        output: int64 ``[n]``, tokens written.
    """

    arrival: NDArray[np.float64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival)

    def take(self, keep: NDArray[np.bool_]) -> Requests:
        """Those where ``keep`` (bool ``[n]``) is true."""
        return Requests(self.arrival[keep], self.prompt[keep], self.output[keep])


class Lengths(BaseModel):
    """Lognormal lengths: half of them are shorter than ``median``.

    Attributes:
        median: tokens.
        spread: standard deviation of the logarithm; 0 makes every length the median, and at 1 one length in six is
            more than 2.7 times the median.
        maximum: longer ones are cut to this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    median: PositiveFloat
    spread: float = 0.0
    maximum: PositiveInt

    def sample(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """``count`` lengths, each at least 1.

        Raises:
            InputError: a negative spread, or a median above the maximum.
        """
        if self.spread < 0 or self.median > self.maximum:
            raise InputError(
                f"lengths with median={self.median:g}, spread={self.spread:g} and maximum={self.maximum} cannot be "
                "drawn; spread must be at least 0 and median at most maximum"
            )
        drawn = self.median * np.exp(self.spread * generator.standard_normal(count))
        return np.clip(np.rint(drawn), 1, self.maximum).astype(np.int64)
