"""The result as one HTML file that needs nothing else: plotly is inside it."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from qat.mixed_precision.figures import figures
from qat.mixed_precision.result import Result, cells
from qat.mixed_precision.sensitivity import Sensitivity
from qat.mixed_precision.table import damage, measured


def write_page(found: Sensitivity, result: Result, path: Path) -> None:
    """Write the page of ``result``, which was made from ``found``."""
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    plots = [
        {"title": title, "id": f"plot{number}", "json": figure.to_json().replace("</", "<\\/")}
        for number, (title, figure) in enumerate(figures(found, result).items())
    ]
    html = template.render(
        found=found,
        result=result,
        plots=plots,
        plotly=get_plotlyjs(),
        cells=cells,
        damage=damage,
        measured=measured(found.measure),
    )
    path.write_text(html + "\n", encoding="utf-8")
