"""Time: how long to wait before asking AWS again. A test gives its own clock, so that nothing sleeps there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qat.errors import RunError


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


def wait_for(
    look: Callable[[], tuple[str, str | None]],
    pauses: Pauses,
    clock: Clock,
    say: Callable[[str], None],
    late: Callable[[str], str],
) -> str:
    """Look until there is a result, and return it.

    Args:
        look: the status, and the result or None; raises where there will be none.
        pauses: between looks.
        clock: see :class:`Clock`.
        say: is told the status and for how long there is nothing else.
        late: the message for the last status when the time is up.

    Raises:
        RunError: ``late``, or what ``look`` raises.
    """
    began, waits = clock.now(), pauses.of(clock)
    while True:
        status, result = look()
        if result is not None:
            return result
        wait = next(waits, None)
        if wait is None:
            raise RunError(late(status))
        say(f"{status} for {(clock.now() - began) / 60:.0f} min")
        clock.sleep(wait)
