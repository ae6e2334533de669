"""The result as one HTML file that needs nothing else: plotly is inside it."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from qat.plan.figures import figures
from qat.plan.result import Plan
from qat.plan.table import days, seconds, share, thinned


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
        plan=plan, plots=plots, plotly=get_plotlyjs(), days=days(plan), seconds=seconds, share=share, thinned=thinned
    )
    path.write_text(html + "\n", encoding="utf-8")
