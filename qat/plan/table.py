"""The result on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qat.plan.result import Plan, Row
from qat.report.tables import plain_table


def render(plan: Plan) -> RenderableType:
    """What the rows cost, how long they take, and what they say in words; the page lists all prices and speeds."""
    return Group(_money(plan), _times(plan), Text(notes(plan)))


def notes(plan: Plan) -> str:
    """What the table cannot hold: each row's note, and how the traffic was thinned."""
    lines = [f"{row.hosting} {row.precision}: {row.note}{thinned(row)}" for row in plan.rows]
    if plan.assumed:
        lines.append(f"* rests on assumed numbers, which the page lists: {', '.join(plan.assumed)}")
    return "\n".join(lines) + "\n"


def thinned(row: Row) -> str:
    """How much of the traffic was followed, and a warning where that tells; empty if all of it was."""
    if row.cells * row.grain == 1:
        return ""
    cells = "1 cell" if row.cells == 1 else f"{row.cells} cells"
    said = f"; 1 of {row.cells * row.grain} requests followed ({cells}, grain {row.grain})"
    if row.replicas and row.cells > 1 and row.replicas.mean_in_cell < 4:
        said += (
            f"; a cell has {row.replicas.mean_in_cell:.1f} replicas on average, so rounding up to whole ones tells: "
            "raise max_requests"
        )
    return said


def days(plan: Plan) -> str:
    """``1 day``, ``2.5 days``."""
    return f"{plan.days:g} day{'' if plan.days == 1 else 's'}"


def money(amount: float | None, currency: str) -> str:
    """``1234.5`` -> ``1,234.50 USD``."""
    return "-" if amount is None else f"{amount:,.2f} {currency}"


def seconds(value: float | None) -> str:
    """Three digits."""
    return "-" if value is None else f"{value:.3g}"


def share(value: float | None) -> str:
    """A part of all requests in percent; what is above 0 never shows as 0."""
    if value is None:
        return "-"
    return "0 %" if value == 0 else "<0.01 %" if value < 1e-4 else f"{value:.2%}".replace("%", " %")


def _money(plan: Plan) -> Table:
    table = _table(
        f"{plan.model.name}: {plan.requests:,.0f} requests in {days(plan)}",
        "hosting", "precision", f"{plan.rows[0].currency}\na day", "a million\ntokens", "of prompt", "of output",
        "replicas\nmean / peak",
    )  # fmt: skip
    for row in plan.rows:
        if row.status == "refused":
            table.add_row(_name(plan, row), row.precision, "refused")
            continue
        each = row.per_million
        costs = ("-" if cost is None else f"{cost:,.3f}" for cost in (each.total, each.prompt, each.output))
        replicas = "-" if row.replicas is None else f"{row.replicas.mean:,.1f} / {row.replicas.peak:,}"
        table.add_row(_name(plan, row), row.precision, f"{row.cost_per_day:,.2f}", *costs, replicas)
    return table


def _times(plan: Plan) -> Table:
    table = _table(
        "Seconds at p50 / p95 / p99, and shares of the requests",
        "hosting", "precision", "last token", "first token", "cold", "rejected", f"over {plan.late_after:g} s",
    )  # fmt: skip
    for row in plan.rows:
        if row.status == "simulated":
            times = (" / ".join(map(seconds, (t.p50, t.p95, t.p99))) for t in (row.latency, row.time_to_first_token))
            shares = (share(part) for part in (row.cold_start_share, row.rejected_share, row.late_share))
            table.add_row(_name(plan, row), row.precision, *times, *shares)
    return table


def _table(title: str, *headings: str) -> Table:
    table = plain_table(title)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < 2 else "right")
    return table


def _name(plan: Plan, row: Row) -> str:
    return f"{row.hosting}*" if row.hosting in plan.assumed else row.hosting
