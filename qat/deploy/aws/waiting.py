"""Time: how long to wait before asking AWS again. A test gives its own clock, so that nothing sleeps there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """What the time is, how to let it pass, and chance; each can be replaced.

    Attributes:
        now: seconds since some moment.
        sleep: wait so many seconds.
        chance: a number in [0, 1).
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Pauses:
    """Pauses that grow, with jitter so that many clients do not ask at once.

    Each is between half and all of ``first * factor**n``, at most ``longest``, until ``total`` seconds have passed
    since the first was asked for.
    """

    first: float
    longest: float
    total: float
    factor: float = 2.0

    def of(self, clock: Clock) -> Iterator[float]:
        """The pauses in seconds; ends when another one would pass ``total``.

        Example:
            >>> times = iter([0.0, 0.0, 1.0, 3.0])
            >>> clock = Clock(now=lambda: next(times), chance=lambda: 1.0)
            >>> list(Pauses(first=1.0, longest=10.0, total=5.0).of(clock))
            [1.0, 2.0]
        """
        end, pause = clock.now() + self.total, self.first
        while True:
            wait = pause * (0.5 + clock.chance() / 2)
            if clock.now() + wait > end:
                return
            yield wait
            pause = min(pause * self.factor, self.longest)
