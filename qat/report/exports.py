"""The table of exports: a row for each format and engine, and why an engine has no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from qat.report.engines import STATUS, STYLE, engine_cells
from qat.report.metrics import EngineResult, ExportResult
from qat.report.tables import human_bytes, plain_table


def export_parts(exports: Mapping[str, ExportResult]) -> Iterator[RenderableType]:
    """The table, then a line for each engine: what loaded the export, or why it did not."""
    yield _table(exports)
    for name, export in exports.items():
        if not export.engines:
            yield Text(f"{name} was loaded by none of the engines that were chosen (engine=...)", style="yellow")
        for engine, result in export.engines.items():
            yield Text(_line(name, engine, result), style=STYLE[result.status] or "dim")


def _line(name: str, engine: str, result: EngineResult) -> str:
    if result.status == "ok":
        return f"{name} was loaded by {result.description}{f'; {result.reason}' if result.reason else ''}"
    return f"{name} in {engine}: {STATUS[result.status]}: {result.reason}"


def _table(exports: Mapping[str, ExportResult]) -> Table:
    """A format's own numbers, and below it those of each engine."""
    table = plain_table(
        "exports, re-read and loaded",
        "≠: numbers that differ in the file, below it weights that an engine computes with; prompt, gen.: tokens/s",
    )
    table.add_column("format, engine", overflow="fold")
    for heading in ("≠", "size", "Δ logit", "ppl", "greedy", "prompt", "gen.", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, export in exports.items():
        table.add_row(Text(name, "bold"), _mismatches(export.mismatches), human_bytes(export.bytes))
        for engine, result in export.engines.items():
            different, *cells = engine_cells(result)
            table.add_row(f"  {engine}", different, "", *cells)
    return table


def _mismatches(count: int) -> Text:
    return Text(str(count), style="green" if count == 0 else "bold red")
