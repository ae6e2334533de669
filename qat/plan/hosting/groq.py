"""GroqCloud: a price a token, and rate limits, as many times as there are replicas side by side.

Limits refill continuously, as the example of console.groq.com/docs/rate-limits implies: 30 requests of 14,400 a day
are back after 3 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import simpy
from numpy.typing import NDArray

from qat.errors import InputError
from qat.plan.facts import ModelFacts, Precision
from qat.plan.hosting.base import Case, Cost, Hosting, Outcome
from qat.plan.pool import Advance, Served
from qat.plan.requests import DAY, Requests
from qat.plan.sourced import Input, Quote, Speed, inputs

MILLION = 1e6


@dataclass(frozen=True, kw_only=True)
class Groq(Hosting):
    """A base model that Groq lists, with a LoRA: full custom weights are not hosted there.

    A request over a limit is answered 429 and comes back when the limits have room for it, in its turn.

    Args:
        currency: of both prices.
        base_model: the listed model whose prices these are.
        prompt_million: price of a million prompt tokens.
        output_million: price of a million output tokens.
        requests_per_day: the organization's limit; null for none.
        tokens_per_minute: its limit of prompt and output tokens together; null for none.
        max_wait_seconds: a client that would have to wait longer gives up.
        speed: of one request; its concurrency plays no part.
        replicas: deployments side by side, such as organizations, each with these limits; a request goes to one that
            has room.
    """

    precision_matters: ClassVar[bool] = False

    currency: str
    base_model: str
    prompt_million: Quote
    output_million: Quote
    requests_per_day: Quote | None
    tokens_per_minute: Quote | None
    max_wait_seconds: Quote
    speed: Speed
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InputError(f"replicas={self.replicas} must be at least 1: so many times the limits hold side by side")
        if self.replicas > 1 and self.requests_per_day is None and self.tokens_per_minute is None:
            raise InputError(
                f"replicas={self.replicas} has no effect without a limit to multiply; write pricing.groq.replicas=1 or "
                "give requests_per_day or tokens_per_minute"
            )

    def inputs(self) -> list[Input]:
        return inputs(
            prompt_million=self.prompt_million,
            output_million=self.output_million,
            requests_per_day=self.requests_per_day,
            tokens_per_minute=self.tokens_per_minute,
            max_wait_seconds=self.max_wait_seconds,
            speed=self.speed,
        )

    def note(self, facts: ModelFacts, precision: Precision) -> str:
        base = f"{self.base_model} with a LoRA: Groq does not host these weights"
        base += f"; {self.replicas} replicas, each with the limits" if self.replicas > 1 else ""
        return base if precision == "float" else f"{base}; the export's precision plays no part"

    def places(self, facts: ModelFacts, precision: Precision, tokens: float) -> int:
        return 1

    def simulate(self, case: Case) -> Outcome:
        requests, factor = case.requests, case.scale.factor
        if self.replicas > 1 and _have_room(requests, self._buckets(requests, 1, factor)):
            raise InputError(
                f"replicas={self.replicas} has no effect: the limits of one let every request of this traffic in as it "
                "arrives; write pricing.groq.replicas=1"
            )
        begin = _admit(
            requests, self._buckets(requests, self.replicas, factor), self.max_wait_seconds.value, case.advance
        )
        rejected = np.isnan(begin)
        taken = requests.take(~rejected)
        costs = [
            Cost.of("prompt tokens", factor * int(taken.prompt.sum()) / MILLION, "million", self.prompt_million.value),
            Cost.of("output tokens", factor * int(taken.output.sum()) / MILLION, "million", self.output_million.value),
        ]
        served = Served(begin, np.zeros(len(requests), dtype=bool), rejected)
        return Outcome.of(served, requests, self.speed, costs, case.scale.cells)

    def _buckets(self, requests: Requests, replicas: int, factor: int) -> list[_Bucket]:
        """The limits of ``replicas`` together, full."""
        tokens = requests.prompt + requests.output
        limits = ((self.requests_per_day, DAY, np.ones_like(tokens)), (self.tokens_per_minute, 60.0, tokens))
        return [
            _Bucket.of(limit.value, period, replicas, factor, needs)
            for limit, period, needs in limits
            if limit is not None
        ]


@dataclass(eq=False, slots=True)
class _Bucket:
    """A limit of every replica together: ``size`` at first and at most, filled at ``rate`` a second.

    No request may need more than the ``limit`` of one. A simulated part of the traffic has its part of the rate, and of
    the size, but never less than one request needs.
    """

    limit: float
    size: float
    rate: float
    needs: list[int]
    level: float
    time: float = 0.0

    @classmethod
    def of(cls, limit: float, period: float, replicas: int, factor: int, needs: NDArray[np.int64]) -> _Bucket:
        largest = float(needs[needs <= limit].max(initial=0))
        size = max(limit * replicas / factor, largest)
        return cls(limit, size, limit * replicas / period / factor, needs.tolist(), level=size)

    def wait(self, request: int, now: float) -> float:
        """Seconds until ``request`` has room; infinite if it needs more than the limit."""
        if self.needs[request] > self.limit:
            return float("inf")
        self.level = min(self.size, self.level + self.rate * (now - self.time))
        self.time = now
        short = self.needs[request] - self.level
        return short / self.rate if short > 1e-9 else 0.0


def _have_room(requests: Requests, buckets: list[_Bucket]) -> bool:
    """Whether no request has to wait, nor needs more than a limit; the buckets are used up by it."""
    for request, arrival in enumerate(requests.arrival.tolist()):
        if any(bucket.wait(request, arrival) for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.level -= bucket.needs[request]
    return True


def _admit(requests: Requests, buckets: list[_Bucket], patience: float, advance: Advance) -> NDArray[np.float64]:
    """When each request is let in ``[n]``; NaN for those that give up."""
    env = simpy.Environment()
    begin = np.full(len(requests), np.nan)
    every = max(1, len(requests) // 100)

    def gate() -> simpy.events.ProcessGenerator:
        for request, arrival in enumerate(requests.arrival.tolist()):
            if arrival > env.now:
                yield env.timeout(arrival - env.now)
            wait = max((bucket.wait(request, env.now) for bucket in buckets), default=0.0)
            if env.now + wait - arrival <= patience:
                if wait:
                    yield env.timeout(wait)
                    for bucket in buckets:
                        bucket.wait(request, env.now)
                for bucket in buckets:
                    bucket.level -= bucket.needs[request]
                begin[request] = env.now
            if request % every == 0:
                advance(request / len(requests))

    env.process(gate())
    env.run()
    advance(1.0)
    return begin
