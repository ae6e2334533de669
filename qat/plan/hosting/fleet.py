"""One's own instances with vLLM or another engine, under an autoscaler."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np
import simpy
from numpy.typing import NDArray

from qat.errors import InputError
from qat.plan.facts import ModelFacts, Precision
from qat.plan.hosting.base import Case, Cost, Hosting, Outcome, service_seconds
from qat.plan.pool import Pool, wanted
from qat.plan.scaling import TowardsTarget
from qat.plan.sourced import Input, Quote, Speed, inputs
from qat.report.tables import human_bytes

GIB = 2**30
FIRST = 300.0
"""Seconds at the beginning whose load says how many replicas are already there."""


@dataclass(frozen=True, kw_only=True)
class Fleet(Hosting):
    """Replicas of one instance each, paid from the moment they are ordered until they are gone.

    The simulated time is cut out of a longer one: it begins with the replicas that its first minutes keep busy.

    Args:
        currency: of the price.
        instance_hour: price of one instance for an hour.
        memory_gib: memory of its accelerator.
        usable_memory: share of it for weights and for keys and values (vLLM's ``gpu_memory_utilization``).
        speeds: by precision of the weights.
        start_seconds: from ordering an instance until it serves.
        max_wait_seconds: a client that has waited longer gives up.
        min_replicas: always running; 0 lets the fleet sleep.
        max_replicas: most replicas at a time.
        target_load: share of the places that the autoscaler keeps taken, above 0 to 1.
        look_seconds: seconds between two decisions of the autoscaler.
        scale_in_seconds: replicas stop when fewer were enough for so long.
    """

    precision_matters: ClassVar[bool] = True

    currency: str
    instance_hour: Quote
    memory_gib: Quote
    usable_memory: float
    speeds: dict[Precision, Speed]
    start_seconds: Quote
    max_wait_seconds: Quote
    min_replicas: int
    max_replicas: int
    target_load: float
    look_seconds: float
    scale_in_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or not self.max_replicas:
            raise InputError(
                f"min_replicas={self.min_replicas} and max_replicas={self.max_replicas} must be 0 or more, "
                "the first at most the second, and the second at least 1"
            )
        for name, value in (("target_load", self.target_load), ("usable_memory", self.usable_memory)):
            if not 0 < value <= 1:
                raise InputError(f"{name}={value} must be above 0 and at most 1")
        if not self.look_seconds > 0 or not self.scale_in_seconds >= 0:
            raise InputError(
                f"look_seconds={self.look_seconds} must be above 0 and "
                f"scale_in_seconds={self.scale_in_seconds} at least 0"
            )
        if not self.speeds:
            raise InputError("speeds={} must state the speed of at least one precision")

    def inputs(self) -> list[Input]:
        speeds: dict[str, Quote | Speed | None] = {f"speeds.{name}": speed for name, speed in self.speeds.items()}
        return inputs(
            instance_hour=self.instance_hour,
            memory_gib=self.memory_gib,
            start_seconds=self.start_seconds,
            max_wait_seconds=self.max_wait_seconds,
            **speeds,
        )

    def note(self, facts: ModelFacts, precision: Precision) -> str:
        size = facts.bytes[precision]
        return f"{human_bytes(size) if size < GIB else f'{size / GIB:.2f} GiB'} of weights"

    def refusal(self, facts: ModelFacts, precision: Precision, tokens: float) -> str | None:
        if precision not in facts.bytes:
            return "the size of the weights at this precision is not known"
        if precision not in self.speeds:
            return "the pricing states no speed at this precision"
        if self.places(facts, precision, tokens) < 1:
            return (
                f"does not fit: {facts.bytes[precision] / GIB:.1f} GiB of weights and the keys and values of one "
                f"request, {self._usable / GIB:.1f} GiB usable of {self.memory_gib.value:g} GiB"
            )
        return None

    @property
    def _usable(self) -> float:
        return self.memory_gib.value * GIB * self.usable_memory

    def places(self, facts: ModelFacts, precision: Precision, tokens: float) -> int:
        """The stated concurrency, or fewer where the memory that the weights leave holds fewer mean requests."""
        stated = self.speeds[precision].concurrency
        free = self._usable - facts.bytes[precision]
        if free <= 0:
            return 0
        if facts.kv_bytes_per_token is None:
            return stated
        return min(stated, int(free // (facts.kv_bytes_per_token * tokens)))

    def simulate(self, case: Case) -> Outcome:
        speed, cells = self.speeds[case.precision], case.scale.cells
        minimum = ceil(self.min_replicas / cells)
        service = service_seconds(case.requests, speed)
        policy = TowardsTarget(
            initial=wanted(_first_load(case.requests.arrival, service), case.places * self.target_load),
            minimum=minimum,
            maximum=max(1, minimum, self.max_replicas // cells),
            target=self.target_load,
            every=self.look_seconds,
            patience=self.scale_in_seconds,
        )
        pool = Pool(
            simpy.Environment(),
            case.requests.arrival,
            service,
            case.places,
            self.start_seconds.value,
            self.max_wait_seconds.value,
            policy,
            case.advance,
        )
        served = pool.run(case.seconds)
        paid = sum(max(0.0, min(replica.stopped, case.seconds) - replica.asked) for replica in served.replicas)
        costs = [Cost.of("instances", cells * paid / 3600, "instance-hour", self.instance_hour.value)]
        return Outcome.of(served, case.requests, speed, costs, cells)


def _first_load(arrival: NDArray[np.float64], service: NDArray[np.float64]) -> float:
    """Mean number of requests in service in the first minutes (Little's law), if none waits."""
    return float(service[arrival < FIRST].sum() / FIRST)
