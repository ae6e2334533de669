"""Amazon Bedrock Custom Model Import: copies of the model, billed by Custom Model Units in windows.

Source: docs.aws.amazon.com/bedrock/latest/userguide/import-model-calculate-cost (copies, units, "5-minute billing
windows from the first successful inference call"), and those that the pricing names.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import ClassVar

import simpy

from qat.errors import InputError
from qat.plan.facts import ModelFacts, Precision
from qat.plan.hosting.base import Case, Cost, Hosting, Outcome, service_seconds
from qat.plan.pool import Pool, Replica
from qat.plan.requests import DAY
from qat.plan.scaling import OnDemand
from qat.plan.sourced import Input, Quote, Speed, inputs

DAYS_IN_MONTH = 365 / 12


@dataclass(frozen=True, kw_only=True)
class Bedrock(Hosting):
    """Imported models on Bedrock. Weights are 16-bit there, whatever was exported.

    A copy starts when more requests are there than the copies have places, and stops when it has been idle for
    ``idle_seconds``. Every window that begins while a copy runs is billed whole, counted from the copy's first call.

    Args:
        currency: of every price.
        custom_model_units: units of one copy (``GetImportedModel`` says how many).
        unit_minute: price of one unit for a minute.
        unit_month_storage: price of storing one unit for a month.
        window_seconds: length of a billing window.
        idle_seconds: a copy without a call for so long is stopped.
        start_seconds: from ordering a copy until it serves (the cold start).
        max_wait_seconds: a client that has waited longer gives up.
        max_copies: the account's quota of copies at a time; null for none.
        speed: of one copy.
    """

    precision_matters: ClassVar[bool] = False

    currency: str
    custom_model_units: Quote
    unit_minute: Quote
    unit_month_storage: Quote
    window_seconds: Quote
    idle_seconds: Quote
    start_seconds: Quote
    max_wait_seconds: Quote
    max_copies: Quote | None
    speed: Speed

    def __post_init__(self) -> None:
        if not self.window_seconds.value:
            raise InputError("window_seconds=0 must be above 0; AWS bills windows of 300 s")
        if self.max_copies and self.max_copies.value < 1:
            raise InputError(f"max_copies={self.max_copies.value:g} must be at least 1, or null for no quota")

    def inputs(self) -> list[Input]:
        return inputs(
            custom_model_units=self.custom_model_units,
            unit_minute=self.unit_minute,
            unit_month_storage=self.unit_month_storage,
            window_seconds=self.window_seconds,
            idle_seconds=self.idle_seconds,
            start_seconds=self.start_seconds,
            max_wait_seconds=self.max_wait_seconds,
            max_copies=self.max_copies,
            speed=self.speed,
        )

    def note(self, facts: ModelFacts, precision: Precision) -> str:
        if precision == "float":
            return "16-bit weights"
        return "served from the 16-bit twin: same units, cost and speed as float; quantization saves nothing here"

    def places(self, facts: ModelFacts, precision: Precision, tokens: float) -> int:
        return self.speed.concurrency

    def simulate(self, case: Case) -> Outcome:
        maximum = max(1, self.max_copies.value // case.scale.cells) if self.max_copies else inf
        pool = Pool(
            simpy.Environment(),
            case.requests.arrival,
            service_seconds(case.requests, self.speed),
            case.places,
            self.start_seconds.value,
            self.max_wait_seconds.value,
            OnDemand(maximum, self.idle_seconds.value),
            case.advance,
        )
        served = pool.run(case.seconds)
        windows = case.scale.cells * sum(self._windows(copy, case.seconds) for copy in served.replicas)
        units = self.custom_model_units.value
        unit_minutes = windows * self.window_seconds.value / 60 * units
        costs = [
            Cost.of(f"{windows} windows of running copies", unit_minutes, "CMU-minute", self.unit_minute.value),
            Cost.of("storage", units * case.seconds / DAY / DAYS_IN_MONTH, "CMU-month", self.unit_month_storage.value),
        ]
        return Outcome.of(served, case.requests, self.speed, costs, case.scale.cells)

    def _windows(self, copy: Replica, seconds: float) -> int:
        """Windows that begin before ``copy`` stops, and before the end of the simulated time."""
        runs = min(copy.stopped, seconds) - copy.first_call
        return max(0, ceil(runs / self.window_seconds.value - 1e-9)) if copy.first_call < inf else 0
