"""From what became of every request to the numbers of a row."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from qat.plan.hosting.base import Outcome
from qat.plan.requests import DAY, Requests
from qat.plan.result import Percentiles, PerMillion, Replicas, Row
from qat.plan.scale import Scale

Floats = NDArray[np.float64]


def fill(row: Row, outcome: Outcome, requests: Requests, scale: Scale, edges: Floats, late_after: float) -> Row:
    """``row`` with the numbers of ``outcome``; ``edges`` are those of the bins of its curve."""
    served = ~outcome.rejected
    latency = (outcome.end - requests.arrival)[served]
    first = (outcome.first_token - requests.arrival)[served]
    cost = float(sum(item.amount for item in outcome.costs))
    return row.model_copy(
        update={
            "cost_per_day": cost * DAY / float(edges[-1]),
            "per_million": _per_million(cost, requests.take(served), scale.factor),
            "costs": outcome.costs,
            "latency": percentiles(latency),
            "time_to_first_token": percentiles(first),
            "cold_start_share": _share(outcome.cold),
            "rejected_share": _share(outcome.rejected),
            "late_share": float(np.sum(first > late_after) / len(requests)) if len(requests) else None,
            "replicas": replicas(outcome.changes, edges, scale.cells),
            "simulated": len(requests),
            "cells": scale.cells,
            "grain": scale.grain,
            "latency_quantiles": np.quantile(latency, np.linspace(0, 1, 101)).tolist() if len(latency) else [],
        }
    )


def percentiles(values: Floats) -> Percentiles:
    """Of ``values``; null if there are none."""
    if not len(values):
        return Percentiles()
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99]).tolist()
    return Percentiles(p50=p50, p95=p95, p99=p99)


def bins(seconds: float, most: int = 288) -> Floats:
    """Edges of equal bins over ``[0, seconds]``: at most ``most``, of whole minutes where that is possible."""
    width = max(seconds / most, min(60.0, seconds))
    return np.linspace(0.0, seconds, max(1, ceil(seconds / width - 1e-9)) + 1)


def replicas(changes: Floats, edges: Floats, cells: int) -> Replicas | None:
    """How many replicas served over time, from ``changes`` ``[k, 2]``; None without any."""
    if not len(changes):
        return None
    times = np.clip(changes[:, 0], 0.0, edges[-1])
    # Replica-seconds until t: each change counts from its time on.
    until = [float(np.sum(np.clip(edge - times, 0.0, None) * changes[:, 1])) for edge in edges]
    curve = np.diff(until) / np.diff(edges)
    mean = until[-1] / edges[-1]
    peak = int(np.max(np.cumsum(changes[:, 1])))
    return Replicas(mean=mean, peak=peak, mean_in_cell=mean / cells, curve=curve.round(6).tolist())


def _per_million(cost: float, served: Requests, factor: int) -> PerMillion:
    prompt, output = (int(tokens.sum()) * factor / 1e6 for tokens in (served.prompt, served.output))
    if not len(served):
        return PerMillion()
    return PerMillion(prompt=cost / prompt, output=cost / output, total=cost / (prompt + output))


def _share(which: NDArray[np.bool_]) -> float | None:
    return float(np.mean(which)) if len(which) else None
