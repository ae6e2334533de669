"""``compare.json`` as a plot in one HTML file that needs nothing else: plotly is inside it."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from qat.report.compare import TUNED_FLOAT, Comparison

COLOURS = {"float": "#7f7f7f", "ptq": "#d97706", "trained": "#2563eb"}
NAMES = {"float": "float", "ptq": "PTQ of the tuned float", "trained": "trained"}


def write_plot(comparison: Comparison, path: Path) -> None:
    """Write the plot of ``comparison``."""
    path.write_text(figure(comparison).to_html(include_plotlyjs=True), encoding="utf-8")


def figure(comparison: Comparison) -> go.Figure:
    """Loss of every row: the mean over the seeds as a point, the lowest and highest seed as a bar."""
    plot = go.Figure()
    for kind, colour in COLOURS.items():
        rows = [row for row in comparison.rows if row.kind == kind and "loss" in row.statistics]
        losses = [row.statistics["loss"] for row in rows]
        plot.add_scatter(
            name=NAMES[kind],
            x=[loss.mean for loss in losses],
            y=[row.title for row in rows],
            mode="markers",
            marker={"color": colour, "size": 10},
            error_x={
                "array": [loss.most - loss.mean for loss in losses],
                "arrayminus": [loss.mean - loss.least for loss in losses],
            },
        )
        for row in rows:
            if row.name == TUNED_FLOAT:
                plot.add_vline(x=row.statistics["loss"].mean, line_dash="dot", line_color=colour)
    titles = [row.title for row in comparison.rows if "loss" in row.statistics]
    plot.update_layout(
        title=f"{comparison.model}, {comparison.scheme}: loss on the test split, nats a token",
        template="simple_white",
        yaxis={"categoryorder": "array", "categoryarray": titles[::-1], "automargin": True},
        legend={"orientation": "h", "y": -0.15},
    )
    return plot
