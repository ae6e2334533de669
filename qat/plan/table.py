"""The result on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qat.plan.result import Plan, Row
from qat.report.tables import plain_table


def render(plan: Plan) -> RenderableType:
    """What the rows cost, how long they take, and what they say in words; the page lists all prices and speeds."""
    return Group(_money(plan), _times(plan), _shares(plan), Text(notes(plan)))


def notes(plan: Plan) -> str:
    """What the tables cannot hold: each row's note, and how the traffic was thinned; once where both are the same."""
    precisions: dict[tuple[str, str], list[str]] = {}
    for row in plan.rows:
        precisions.setdefault((row.hosting, f"{row.note}{thinned(row)}"), []).append(row.precision)
    lines = [f"{hosting} {', '.join(those)}: {said}" for (hosting, said), those in precisions.items()]
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
        f"{plan.rows[0].currency}\na day", "a million\ntokens", "of prompt", "of output",
    )  # fmt: skip
    for row, head in shown(plan):
        if row.status == "refused":
            table.add_row(*head, "refused")
            continue
        each = row.per_million
        costs = ("-" if cost is None else f"{cost:,.3f}" for cost in (each.total, each.prompt, each.output))
        table.add_row(*head, f"{row.cost_per_day:,.2f}", *costs)
    return table


def _times(plan: Plan) -> Table:
    table = _table("Seconds at p50 / p95 / p99", "last token", "first token")
    for row, head in shown(plan):
        if row.status == "simulated":
            times = (" / ".join(map(seconds, (t.p50, t.p95, t.p99))) for t in (row.latency, row.time_to_first_token))
            table.add_row(*head, *times)
    return table


def _shares(plan: Plan) -> Table:
    table = _table(
        "Replicas, and shares of the requests", "mean / peak", "cold", "rejected", f"over {plan.late_after:g} s"
    )
    for row, head in shown(plan):
        if row.status == "simulated":
            replicas = "-" if row.replicas is None else f"{row.replicas.mean:,.1f} / {row.replicas.peak:,}"
            table.add_row(*head, replicas, *map(share, (row.cold_start_share, row.rejected_share, row.late_share)))
    return table


def _table(title: str, *headings: str) -> Table:
    """Numbers right of a hosting and a precision; a narrow terminal breaks the hosting's name, and hides nothing."""
    table = plain_table(title)
    table.add_column("hosting", overflow="fold")
    table.add_column("precision")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def shown(plan: Plan) -> Iterator[tuple[Row, tuple[str, str]]]:
    """The rows with their first two cells: one for all precisions of a hosting where no number depends on them."""
    for hosting, found in groupby(plan.rows, key=lambda row: row.hosting):
        rows = list(found)
        name = f"*{hosting}" if hosting in plan.assumed else hosting
        numbers = [row.model_dump(exclude={"precision", "note"}) for row in rows]
        if len(rows) > 1 and all(those == numbers[0] for those in numbers):
            yield rows[0], (name, "all")
        else:
            yield from ((row, (name, row.precision)) for row in rows)
