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

    def sample(self, count: int, generator: np.random.Generator, key: str) -> NDArray[np.int64]:
        """``count`` lengths, each at least 1.

        Args:
            key: where these lengths sit in the config, for messages.

        Raises:
            InputError: a negative spread, or a median above the maximum.
        """
        if self.spread < 0:
            raise InputError(f"{key}.spread={self.spread:g} must be at least 0")
        if self.median > self.maximum:
            raise InputError(f"{key}.median={self.median:g} must be at most {key}.maximum={self.maximum}")
        drawn = self.median * np.exp(self.spread * generator.standard_normal(count))
        return np.clip(np.rint(drawn), 1, self.maximum).astype(np.int64)
