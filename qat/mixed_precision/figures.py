"""The plots of the page, as plotly figures without colours of a theme: the page adds those."""

from __future__ import annotations

import plotly.graph_objects as go

from qat.mixed_precision.allocation import Allocation
from qat.mixed_precision.result import Result
from qat.mixed_precision.sensitivity import Sensitivity
from qat.mixed_precision.table import measured

# Colours that read on white and on near-black.
BEST, UNIFORM, MIX = "#3b82f6", "#f59e0b", "#a855f7"
SHADES = ("#ef4444", "#f59e0b", "#10b981", "#14b8a6", "#3b82f6", "#a855f7", "#ec4899")
"""One a width, 2 to 8 bits."""


def figures(found: Sensitivity, result: Result) -> dict[str, go.Figure]:
    """Title -> figure."""
    drawn = {
        "Damage against average bits": _frontier(result),
        f"Bits of every {found.granularity}, within {result.budget}": _widths(found, result.chosen),
        f"Damage of one {found.granularity} alone": _damages(found),
    }
    for figure in drawn.values():
        figure.layout.template = None
    return drawn


def _frontier(result: Result) -> go.Figure:
    """The predicted frontier; hollow marks are predictions, full ones measurements."""
    figure = go.Figure()
    line = {"color": BEST, "shape": "hv"}
    points = result.frontier
    figure.add_scatter(
        x=[point.bits for point in points],
        y=[point.predicted for point in points],
        mode="lines",
        line=line,
        name="best, predicted",
    )
    uniform = [row for row in result.compared if row.name.startswith("uniform_")]
    mixes = [row for row in result.compared if row not in uniform]
    for name, rows, colour, symbol in (
        ("mixed", [result.chosen], BEST, "star"),
        ("uniform widths", uniform, UNIFORM, "square"),
        ("mixed without measuring", mixes, MIX, "circle"),
    ):
        for kind in ("predicted", "measured"):
            if rows:
                _add_marks(figure, f"{name}, {kind}", rows, kind, colour, symbol)
    return figure.update_layout(
        xaxis={"title": "bits a weight, without scales"},
        yaxis={"title": measured(result.measure), "type": "log", "exponentformat": "power", "dtick": 1},
        height=520,
    )


def _add_marks(figure: go.Figure, name: str, rows: list[Allocation], kind: str, colour: str, symbol: str) -> None:
    figure.add_scatter(
        x=[row.bits for row in rows],
        y=[getattr(row, kind) for row in rows],
        text=[row.name for row in rows],
        hovertemplate="%{text}: %{x:.3f} bits, %{y:.4g}<extra></extra>",
        mode="markers",
        name=name,
        marker={
            "color": colour,
            "symbol": f"{symbol}-open" if kind == "predicted" else symbol,
            "size": 14 if symbol == "star" else 9,
        },
    )


def _widths(found: Sensitivity, chosen: Allocation) -> go.Figure:
    names = [unit.name for unit in found.units]
    widths = [chosen.widths[name] for name in names]
    figure = go.Figure(
        go.Bar(
            x=list(range(len(names))),
            y=widths,
            customdata=names,
            marker={"color": [SHADES[width - 2] for width in widths]},
            hovertemplate="%{customdata}: %{y} bits<extra></extra>",
        )
    )
    return figure.update_layout(
        xaxis={"title": f"{found.granularity}, in model order"},
        yaxis={"title": "bits", "range": [0, max(found.widths)], "tickvals": found.widths},
        showlegend=False,
    )


def _damages(found: Sensitivity) -> go.Figure:
    figure = go.Figure()
    for width in found.widths:
        figure.add_scatter(
            x=list(range(len(found.units))),
            y=[unit.damage[width] for unit in found.units],
            customdata=[unit.name for unit in found.units],
            hovertemplate="%{customdata}: %{y:.4g}<extra></extra>",
            mode="lines+markers",
            name=f"{width} bits",
            line={"color": SHADES[width - 2]},
        )
    return figure.update_layout(
        xaxis={"title": f"{found.granularity}, in model order"},
        yaxis={"title": measured(found.measure), "type": "log", "exponentformat": "power", "dtick": 1},
    )
