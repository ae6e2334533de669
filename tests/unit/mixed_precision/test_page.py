from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from rich.console import Console

from qat.mixed_precision.allocation import Budget, allocate, frontier, uniform
from qat.mixed_precision.page import write_page
from qat.mixed_precision.result import Result, result_table, widths_table
from qat.mixed_precision.sensitivity import Sensitivity
from qat.mixed_precision.table import SHOWN, sensitivity_table


def result(found: Sensitivity) -> Result:
    budget = Budget(bits=3.0)
    chosen = allocate(found, budget).model_copy(update={"measured": 0.375})
    return Result(
        model="</script> & co",
        measure="kl",
        budget=budget,
        chosen=chosen,
        compared=uniform(found),
        frontier=frontier(found),
    )


def test_the_page_needs_nothing_else_and_holds_every_number(made: Callable[..., Sensitivity], tmp_path: Path) -> None:
    found = made([[0.4, 0.1], [0.3, 0.2]], [100, 300])
    write_page(found, result(found), tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    own = page.split("<script>")[0] + page.split("<script>")[-1]
    assert not re.search(r'(src|href)="', own)
    assert "</script> & co" not in own
    assert "&lt;/script&gt; &amp; co" in own
    for text in ("layers.0", "layers.1", "0.3750", "uniform_4", "best, predicted"):
        assert text in own
    plot = json.loads(re.findall(r'"plot0": (\{.*?\}),"plot1"', own, re.S)[0])
    assert plot["data"][0]["y"] == [point.predicted for point in frontier(found)]


def test_the_result_is_read_as_it_was_written(made: Callable[..., Sensitivity], tmp_path: Path) -> None:
    written = result(made([[0.4, 0.1], [0.3, 0.2]], [100, 300]))
    written.write(tmp_path / "allocation.json")
    assert Result.model_validate_json((tmp_path / "allocation.json").read_text()) == written


def test_the_tables_show_predicted_beside_measured(made: Callable[..., Sensitivity]) -> None:
    found = made([[0.4, 0.1], [0.3, 0.2]], [100, 300])
    console = Console(width=80, record=True, file=StringIO())
    for table in (result_table(result(found)), widths_table(found, result(found).chosen)):
        console.print(table)
    text = console.export_text()
    assert re.search(r"mixed +2\.500 +3\.140 +1\.16 kB +0\.4000 +0\.3750", text), text
    assert re.search(r"uniform_2 .* -\s", text)


def test_a_large_model_shows_the_layers_that_lose_most(made: Callable[..., Sensitivity]) -> None:
    found = made([[float(index), 0.0] for index in range(SHOWN + 1)], [8] * (SHOWN + 1))
    table = sensitivity_table(found)
    assert table.row_count == SHOWN
    assert next(table.columns[0].cells) == f"layers.{SHOWN}"
    assert "layers.0" not in [*table.columns[0].cells]
