"""The result as one HTML file that needs nothing else: plotly is inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from qat.plan.figures import figures
from qat.plan.result import Plan, Row
from qat.plan.table import days, notes, seconds, share, shown


@dataclass(frozen=True)
class Group:
    """The rows of one hosting as the page shows them.

    Attributes:
        rows: each with its precision, "all" where no number depends on it.
        cheapest: the row that costs least of those that reject nothing; None where there is no choice.
    """

    name: str
    rows: list[tuple[Row, str]]
    cheapest: Row | None


def groups(plan: Plan) -> Iterator[Group]:
    """The hostings in their order."""
    for name, found in groupby(shown(plan), key=lambda item: item[1][0]):
        rows = [(row, precision) for row, (_, precision) in found]
        whole = [row for row, _ in rows if row.status == "simulated" and not row.rejected_share]
        cheapest = min(whole, key=lambda row: row.cost_per_day or 0.0, default=None) if len(rows) > 1 else None
        yield Group(name, rows, cheapest)


def write_page(plan: Plan, path: Path) -> None:
    """Write the page of ``plan``."""
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    plots = [
        {"title": title, "id": f"plot{number}", "json": figure.to_json().replace("</", "<\\/")}
        for number, (title, figure) in enumerate(figures(plan).items())
    ]
    html = template.render(
        plan=plan,
        groups=list(groups(plan)),
        notes=notes(plan).splitlines(),
        plots=plots,
        plotly=get_plotlyjs(),
        days=days(plan),
        seconds=seconds,
        share=share,
    )
    path.write_text(html + "\n", encoding="utf-8")
