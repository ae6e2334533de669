"""What ``qat plan`` found, as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qat.plan.facts import ModelFacts, Precision
from qat.plan.hosting.base import Cost
from qat.plan.sourced import Input


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Percentiles(_Strict):
    """Seconds, over the requests that were served; null if there are none."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class PerMillion(_Strict):
    """The whole cost divided by the millions of served tokens of a kind: what one kind costs if it bears everything."""

    prompt: float | None = None
    output: float | None = None
    total: float | None = None


class Replicas(_Strict):
    """Serving replicas of all cells together; null where there are none to manage.

    Attributes:
        mean: over the simulated time.
        peak: most at a time.
        mean_in_cell: what one simulated pool had: below a few, rounding up to whole replicas tells.
        curve: mean number in each bin of the result's ``bin_seconds``.
    """

    mean: float
    peak: int
    mean_in_cell: float
    curve: list[float]


class Row(_Strict):
    """One hosting at one precision.

    Attributes:
        status: "refused" with the reason in ``note``, and no numbers.
        note: what a reader must know.
        cost_per_day: in ``currency``, for all the traffic.
        costs: the bill of the whole simulated time, for all the traffic.
        cold_start_share: of all requests, those that arrived while no replica could serve.
        rejected_share: those that were refused or gave up waiting.
        late_share: those served whose first token came later than the plan's ``late_after`` seconds.
        simulated: requests that were followed one by one.
        cells: equal pools that the traffic was split over.
        grain: of how many requests of a cell one was followed.
        latency_quantiles: seconds at 0, 1, ... 100 %.
    """

    hosting: str
    precision: Precision
    status: Literal["simulated", "refused"]
    note: str
    currency: str
    cost_per_day: float | None = None
    per_million: PerMillion = PerMillion()
    costs: list[Cost] = []
    latency: Percentiles = Percentiles()
    time_to_first_token: Percentiles = Percentiles()
    cold_start_share: float | None = None
    rejected_share: float | None = None
    late_share: float | None = None
    replicas: Replicas | None = None
    simulated: int = 0
    cells: int = 1
    grain: int = 1
    latency_quantiles: list[float] = []


class Plan(_Strict):
    """Every hosting at every precision.

    Attributes:
        requests: expected in the simulated time.
        requests_curve: requests a second in each bin.
        inputs: hosting -> every number from outside that its rows depend on.
        assumptions: what the simulation takes for granted.
    """

    model: ModelFacts
    days: float
    seed: int
    late_after: float
    requests: float
    mean_prompt_tokens: float
    mean_output_tokens: float
    bin_seconds: float
    requests_curve: list[float]
    rows: list[Row]
    inputs: dict[str, list[Input]]
    assumptions: list[str]

    @property
    def assumed(self) -> list[str]:
        """The hostings some of whose numbers nobody vouches for."""
        return [name for name, given in self.inputs.items() if any(item.assumed for item in given)]

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
