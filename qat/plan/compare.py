"""Simulate the same traffic on every hosting, at every precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from qat.errors import InputError
from qat.plan.facts import PRECISIONS, ModelFacts, Precision
from qat.plan.hosting.base import Case, Hosting
from qat.plan.requests import DAY, Requests
from qat.plan.result import Plan, Row
from qat.plan.scale import Scale
from qat.plan.summary import bins, fill
from qat.plan.traffic.base import Traffic

Progress = Callable[[str, float], None]
"""Called with what is simulated now, and the share of the whole plan that is done, 0 to 1."""

SAMPLE = 200_000
"""About so many requests tell the mean lengths and the shape of the day."""

ASSUMPTIONS = [
    "A request takes prompt tokens / prompt speed + output tokens / output speed once it has begun, at any load: state "
    "speeds that were measured at the stated concurrency. The network is not counted.",
    "Requests wait in one queue and begin in the order of their arrival, on the oldest replica that has a place.",
    "Cells are pools that do not share replicas: each rounds up to whole replicas and evens out fewer requests, which "
    "tends to overstate cost and waiting. Grain keeps 1 of every so many requests and of the places of a replica.",
    "A share of Poisson traffic is exactly Poisson traffic; a share of a trace is a random sample of it.",
    "Cost per million tokens is the whole cost over the served tokens of that kind.",
]


def compare(
    facts: ModelFacts,
    traffic: Traffic,
    hostings: Mapping[str, Hosting],
    days: float = 1.0,
    seed: int = 0,
    max_requests: int = 500_000,
    late_after: float = 10.0,
    progress: Progress = lambda _what, _share: None,
) -> Plan:
    """Simulate ``days`` of ``traffic`` on every one of ``hostings``.

    Args:
        hostings: name -> hosting.
        seed: the same seed gives the same result.
        max_requests: about so many are followed one by one in a simulation; of more, a share (see ``Scale``).
        late_after: a first token after so many seconds is late.
        progress: told how far the plan is.

    Raises:
        InputError: an option out of range, or a traffic without requests.
    """
    _check(hostings, days, seed, max_requests, late_after)
    seconds = days * DAY
    expected = traffic.expected(seconds, seed)
    sample = _sample(traffic, seconds, expected, seed)
    edges = bins(seconds)
    every = np.histogram(sample.arrival, edges)[0] / np.diff(edges) * (expected / len(sample))
    tokens = float((sample.prompt + sample.output).mean())
    setting = _Setting(facts, traffic, expected, tokens, edges, seed, max_requests, late_after)
    rows: list[Row] = []
    for number, (name, hosting) in enumerate(hostings.items()):
        rows += _rows(name, hosting, setting, partial(_tell, progress, name, number, len(hostings)))
    progress("done", 1.0)
    return Plan(
        model=facts,
        days=days,
        seed=seed,
        late_after=late_after,
        requests=expected,
        mean_prompt_tokens=float(sample.prompt.mean()),
        mean_output_tokens=float(sample.output.mean()),
        bin_seconds=float(edges[1]),
        requests_curve=every.round(6).tolist(),
        rows=rows,
        inputs={name: hosting.inputs() for name, hosting in hostings.items()},
        assumptions=ASSUMPTIONS,
    )


def _sample(traffic: Traffic, seconds: float, expected: float, seed: int) -> Requests:
    """About :data:`SAMPLE` of the ``expected`` requests."""
    sample = traffic.requests(seconds, min(1.0, SAMPLE / max(expected, 1.0)), seed)
    if not len(sample):
        raise InputError(
            f"the traffic has no request in {seconds / DAY:g} days with seed={seed}; raise its rate or the days"
        )
    return sample


def _tell(progress: Progress, name: str, number: int, of: int, precision: Precision, share: float) -> None:
    """``share`` of the hosting ``number`` at ``precision`` as a share of the plan."""
    done = (PRECISIONS.index(precision) + share) / len(PRECISIONS)
    progress(f"{name} at {precision}", (number + done) / of)


@dataclass(frozen=True)
class _Setting:
    """What every row of a plan shares; ``tokens`` is the mean length of a request."""

    facts: ModelFacts
    traffic: Traffic
    expected: float
    tokens: float
    edges: NDArray[np.float64]
    seed: int
    max_requests: int
    late_after: float


def _rows(name: str, hosting: Hosting, setting: _Setting, told: Callable[[Precision, float], None]) -> list[Row]:
    """A row for each precision; one simulation serves them all where the precision does not matter."""
    rows: list[Row] = []
    for precision in PRECISIONS:
        refusal = hosting.refusal(setting.facts, precision, setting.tokens)
        row = Row(
            hosting=name,
            precision=precision,
            status="refused" if refusal else "simulated",
            note=refusal or hosting.note(setting.facts, precision),
            currency=hosting.currency,
        )
        if refusal:
            rows.append(row)
        elif rows and not hosting.precision_matters:
            rows.append(rows[0].model_copy(update={"precision": precision, "note": row.note}))
        else:
            rows.append(_simulate(row, hosting, setting, partial(told, precision)))
        told(precision, 1.0)
    return rows


def _simulate(row: Row, hosting: Hosting, setting: _Setting, advance: Callable[[float], None]) -> Row:
    places = hosting.places(setting.facts, row.precision, setting.tokens)
    scale = Scale.choose(setting.expected, places, setting.max_requests)
    seconds = float(setting.edges[-1])
    requests = setting.traffic.requests(seconds, 1 / scale.factor, setting.seed)
    case = Case(setting.facts, row.precision, requests, scale, places // scale.grain, seconds, advance)
    return fill(row, hosting.simulate(case), requests, scale, setting.edges, setting.late_after)


def _check(hostings: Mapping[str, Hosting], days: float, seed: int, max_requests: int, late_after: float) -> None:
    if not hostings:
        raise InputError("no pricing to compare; give at least one, as in pricing=[groq]")
    for name, value in (("days", days), ("late_after", late_after)):
        if not (isfinite(value) and value > 0):
            raise InputError(f"{name}={value} must be a positive number")
    for name, number, least in (("max_requests", max_requests, 1), ("seed", seed, 0)):
        if number < least:
            raise InputError(f"{name}={number} must be at least {least}")
    currencies = {hosting.currency for hosting in hostings.values()}
    if len(currencies) > 1:
        raise InputError(f"the pricings are in {', '.join(sorted(currencies))}; compare prices of one currency")
