"""The table of exports: a row for each format and engine, and why an engine has no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from qat.report.metrics import EngineResult, ExportResult
from qat.report.tables import DASH, human_bytes, number, perplexity, plain_table, rate

_STATUS = {"not_available": "not available", "failed": "failed"}
_STYLE = {"ok": "dim", "not_available": "yellow", "failed": "bold red"}


def export_parts(exports: Mapping[str, ExportResult]) -> Iterator[RenderableType]:
    """The table, then a line for each engine: what loaded the export, or why it did not."""
    yield _table(exports)
    for name, export in exports.items():
        if not export.engines:
            yield Text(f"{name} was loaded by none of the engines that were chosen (engine=...)", style="yellow")
        for engine, result in export.engines.items():
            yield Text(_line(name, engine, result), style=_STYLE[result.status])


def _line(name: str, engine: str, result: EngineResult) -> str:
    if result.status == "ok":
        return f"{name} was loaded by {result.description}{f'; {result.reason}' if result.reason else ''}"
    return f"{name} in {engine}: {_STATUS[result.status]}: {result.reason}"


def _table(exports: Mapping[str, ExportResult]) -> Table:
    """A format's own numbers, and below it those of each engine."""
    table = plain_table("exports, re-read and loaded", "≠: numbers that differ; prompt, gen.: tokens/s")
    table.add_column("format, engine", overflow="fold")
    for heading in ("≠", "size", "Δ logit", "ppl", "greedy", "prompt", "gen.", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, export in exports.items():
        table.add_row(Text(name, "bold"), _mismatches(export.mismatches), human_bytes(export.bytes))
        for engine, result in export.engines.items():
            table.add_row(f"  {engine}", "", "", *_cells(result))
    return table


def _cells(result: EngineResult) -> list[str]:
    greedy = DASH if result.greedy_tokens_equal is None else "{}/{}".format(*result.greedy_tokens_equal)
    return [
        number(result.max_logit_difference, "{:.1e}".format),
        number(result.perplexity, perplexity),
        greedy,
        number(result.prompt_tokens_per_second, rate),
        number(result.generated_tokens_per_second, rate),
        human_bytes(result.peak_memory_bytes),
    ]


def _mismatches(count: int) -> Text:
    return Text(str(count), style="green" if count == 0 else "bold red")
