"""The plots of the page, as plotly figures without colours of a theme: the page adds those."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

from qat.plan.result import Plan, Row
from qat.plan.table import money, share

COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#14b8a6", "#ec4899")
"""One a hosting; each reads on white and on near-black."""
DASHES = {"float": "solid", "int8": "dash", "int4": "dot"}
SHADES = {"float": 1.0, "int8": 0.7, "int4": 0.45}


def figures(plan: Plan) -> dict[str, go.Figure]:
    """Title -> figure."""
    found = {
        "Cost per day": _costs(plan),
        "Latency: share of served requests that are faster": _latency(plan),
        "Replicas over time": _replicas(plan),
        "Requests over time": _requests(plan),
    }
    for figure in found.values():
        figure.layout.template = None
    return found


def distinct(plan: Plan) -> Iterator[tuple[str, Row, str]]:
    """Name, row and colour of every row with a simulation of its own."""
    hostings = list(plan.inputs)
    for row in plan.rows:
        rows = [other for other in plan.rows if other.hosting == row.hosting]
        same = all(other.latency_quantiles == row.latency_quantiles for other in rows)
        if row.status == "simulated" and (not same or row is rows[0]):
            name = row.hosting if same and len(rows) > 1 else f"{row.hosting} {row.precision}"
            yield name, row, COLOURS[hostings.index(row.hosting) % len(COLOURS)]


def _costs(plan: Plan) -> go.Figure:
    rows = [(name, row, colour) for name, row, colour in distinct(plan)][::-1]
    most = max((row.cost_per_day or 0.0 for _, row, _ in rows), default=0.0)
    lost = [f", {share(row.rejected_share)} rejected" if row.rejected_share else "" for _, row, _ in rows]
    figure = go.Figure(
        go.Bar(
            x=[row.cost_per_day for _, row, _ in rows],
            y=[name for name, _, _ in rows],
            text=[
                f"{money(row.cost_per_day, row.currency)}{part}" for (_, row, _), part in zip(rows, lost, strict=True)
            ],
            marker={
                "color": [colour for _, _, colour in rows],
                "opacity": [SHADES[row.precision] for _, row, _ in rows],
            },
            orientation="h",
            textposition="outside",
            cliponaxis=False,
        )
    )
    return figure.update_layout(
        xaxis={"title": plan.rows[0].currency, "range": [0, 1.5 * most]}, height=90 + 34 * len(rows), showlegend=False
    )


def _latency(plan: Plan) -> go.Figure:
    percent = np.arange(101).tolist()
    figure = go.Figure()
    for name, row, colour in distinct(plan):
        line = {"color": colour, "dash": DASHES[row.precision]}
        figure.add_scatter(x=row.latency_quantiles, y=percent, name=name, mode="lines", line=line)
    return figure.update_layout(
        xaxis={"title": "seconds to the last token", "type": "log", "dtick": 1}, yaxis={"title": "%", "range": [0, 101]}
    )


def _replicas(plan: Plan) -> go.Figure:
    figure = go.Figure()
    for name, row, colour in distinct(plan):
        if row.replicas is not None:
            line = {"color": colour, "dash": DASHES[row.precision], "shape": "hvh"}
            figure.add_scatter(x=_hours(plan), y=row.replicas.curve, name=name, mode="lines", line=line)
    return figure.update_layout(xaxis={"title": "hours"}, yaxis={"title": "serving", "rangemode": "tozero"})


def _requests(plan: Plan) -> go.Figure:
    figure = go.Figure()
    line = {"color": COLOURS[0], "shape": "hvh"}
    figure.add_scatter(x=_hours(plan), y=plan.requests_curve, mode="lines", line=line, fill="tozeroy")
    return figure.update_layout(
        xaxis={"title": "hours"}, yaxis={"title": "a second", "rangemode": "tozero"}, showlegend=False
    )


def _hours(plan: Plan) -> list[float]:
    """The middle of each bin."""
    return [(index + 0.5) * plan.bin_seconds / 3600 for index in range(len(plan.requests_curve))]
