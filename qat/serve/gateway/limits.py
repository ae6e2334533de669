"""How much at once, how much a day, how much a minute."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from qat.serve.gateway.errors import TOO_MANY, ApiError

_LONGEST_RETRY = 60
"""Seconds up to which the SDKs follow ``retry-after``: a guess is not above it."""


class Slots:
    """Lets some requests at the engine and some wait, in the order in which they came.

    Args:
        concurrent: at the engine.
        waiting: before it.
        clock: in seconds.
    """

    def __init__(self, concurrent: int, waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._concurrent = concurrent
        self._most_waiting = waiting
        self._semaphore = asyncio.Semaphore(concurrent)
        self._clock = clock
        self._typical = 0.0
        self.waiting = 0
        self.running = 0

    @asynccontextmanager
    async def one(self, patient: bool = True) -> AsyncIterator[float]:
        """A slot for as long as the context lasts; gives the seconds that it took to get it.

        Raises:
            ApiError: 429 if too many wait already; 498 if there is none and the request is not ``patient``.
        """
        arrived = self._clock()
        if self._semaphore.locked():
            if not patient:
                raise ApiError(498, "flex tier capacity exceeded: every slot is taken", "flex", "capacity_exceeded")
            if self.waiting >= self._most_waiting:
                raise too_many(
                    f"{self.running} requests are running and {self.waiting} waiting, which is all that this gateway "
                    "takes at once",
                    "requests",
                    min(_LONGEST_RETRY, self._typical * (self.waiting + 1) / self._concurrent),
                )
        self.waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        began = self._clock()
        try:
            yield began - arrived
        finally:
            self.running -= 1
            self._semaphore.release()
            took = self._clock() - began
            self._typical = took if self._typical == 0 else 0.9 * self._typical + 0.1 * took


class Bucket:
    """A limit that refills evenly: full, it holds what one period allows.

    Args:
        kind: ``requests`` or ``tokens``, as the headers name it.
        limit: of one period; None: there is none, and no header says so.
        period: seconds.
        clock: in seconds.
    """

    def __init__(
        self, kind: str, limit: int | None, period: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind = kind
        self._limit = math.inf if limit is None else limit
        self._rate = self._limit / period
        self._clock = clock
        self._level = float(self._limit)
        self._at = clock()

    def take(self, amount: int) -> None:
        """Use ``amount``, which may be more than there is: what follows waits for it."""
        self._refill()
        self._level -= amount

    def check(self) -> None:
        """Return if something is left.

        Raises:
            ApiError: 429, with the seconds until something is.
        """
        self._refill()
        if self._level < 1:
            raise too_many(
                f"Rate limit reached: {self._limit} {self._kind}", self._kind, (1 - self._level) / self._rate
            )

    def headers(self) -> dict[str, str]:
        """Groq's three: the limit, what is left of it, and when it will be whole again."""
        if math.isinf(self._limit):
            return {}
        self._refill()
        left = max(0, math.floor(self._level))
        reset = (self._limit - self._level) / self._rate
        values = {"limit": str(self._limit), "remaining": str(left), "reset": duration(reset)}
        return {f"x-ratelimit-{name}-{self._kind}": value for name, value in values.items()}

    def _refill(self) -> None:
        if math.isinf(self._limit):
            return
        now = self._clock()
        self._level = min(self._limit, self._level + (now - self._at) * self._rate)
        self._at = now


def too_many(message: str, kind: str, seconds: float) -> ApiError:
    """429 with ``retry-after``, in whole seconds, at least one."""
    wait = max(1, math.ceil(seconds))
    text = f"{message}. Please try again in {wait}s."
    return ApiError(429, text, kind, TOO_MANY, {"retry-after": str(wait)})


def duration(seconds: float) -> str:
    """As Groq writes it.

    Example:
        >>> duration(179.56), duration(7.66), duration(86400)
        ('2m59.56s', '7.66s', '24h0m0s')
    """
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 100:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
