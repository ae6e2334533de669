"""The matrix of engines: every scheme in every format in every engine, on a terminal and in ``docs/engines.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import shorten

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from qat.errors import InputError
from qat.report.metrics import EngineResult, Environment, ExportResult
from qat.report.tables import DASH, human_bytes, number, perplexity, plain_table, rate

BEGIN, END = "<!-- begin: scripts/engine_matrix.py -->", "<!-- end: scripts/engine_matrix.py -->"
HEADINGS = ("scheme", "engine", "≠", "max Δ logit", "perplexity", "greedy", "size", "prompt/s", "generated/s", "memory")
_STATUS = {"not_available": "not available", "failed": "**failed**"}
_STYLE = {"ok": "", "not_available": "yellow", "failed": "bold red"}


class Row(BaseModel):
    """One scheme in one format.

    Attributes:
        scheme: name of the preset.
        changes: options that are not the preset's, since the format needs others: name -> value.
        format: name of the export config, with the options that are not its default.
        refused: why the format does not hold the scheme; None if it does.
        perplexity: of the quantized checkpoint, computed by qat itself.
        result: what was found; None if the format refused.
    """

    model_config = ConfigDict(extra="forbid")

    scheme: str
    changes: dict[str, str] = {}
    format: str
    refused: str | None = None
    perplexity: float | None = None
    result: ExportResult | None = None

    @property
    def label(self) -> str:
        """The scheme as it was quantized."""
        return ", ".join([self.scheme, *(f"{key}={value}" for key, value in self.changes.items())])


class Matrix(BaseModel):
    """What one run of ``scripts/engine_matrix.py`` found.

    Attributes:
        command: what was typed.
        model: name of the model.
        tokens: how many the perplexities are of.
        processor: its name, and the instruction sets that decide which kernels there are.
        environment: what ran it.
        rows: in the order in which they came.
    """

    model_config = ConfigDict(extra="forbid")

    command: str
    model: str
    tokens: int
    processor: str
    environment: Environment
    rows: list[Row] = []

    @property
    def problems(self) -> list[str]:
        """Exports that are not the checkpoint, and engines that failed; empty as it should be."""
        found = []
        for row in self.rows:
            if row.result is not None and row.result.mismatches:
                found.append(f"{row.label} in {row.format}: {row.result.mismatches} numbers differ")
            for engine, result in _engines(row):
                if result.status == "failed":
                    found.append(f"{row.label} in {row.format} in {engine}: {result.reason}")
        return found


def terminal_table(matrix: Matrix) -> RenderableType:
    """All rows, and below them why some have no numbers."""
    table = plain_table(f"{matrix.model}: schemes, formats, engines")
    table.add_column("scheme", overflow="fold")
    table.add_column("format, engine", overflow="fold")
    for heading in ("≠", "Δ logit", "ppl", "greedy", "size", "prompt", "gen.", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    notes: list[str] = []
    for row in matrix.rows:
        if row.result is None:
            table.add_row(row.label, f"{row.format}: refused {_note(row.refused, notes)}", style="dim")
            continue
        table.add_row(row.label, row.format, str(row.result.mismatches))
        for engine, result in _engines(row):
            note = "" if result.reason is None else f" {result.status} {_note(result.reason, notes)}"
            table.add_row("", f"  {engine}{note}", *_numbers(row.result, result), style=_STYLE[result.status])
    lines = [Text(f"({index}) {note}") for index, note in enumerate(notes, start=1)]
    return Group(table, *lines)


def _note(reason: str | None, notes: list[str]) -> str:
    """Number of a reason in ``notes``, in brackets; a new one is added."""
    text = " ".join((reason or "").split())
    if text not in notes:
        notes.append(text)
    return f"({notes.index(text) + 1})"


def markdown(matrix: Matrix) -> str:
    """What goes between the markers of ``docs/engines.md``."""
    return "\n".join([*_origin(matrix), "", *_overview(matrix), *_sections(matrix)])


def insert(page: str, part: str) -> str:
    """``page`` with ``part`` between its markers.

    Raises:
        InputError: the page does not have both markers once.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f"the page needs the lines '{BEGIN}' and '{END}', once each")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{part}\n{END}{rest.partition(END)[2]}"


def _origin(matrix: Matrix) -> Iterator[str]:
    machine = matrix.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()) if name != "qat")
    yield f"Made by `{matrix.command}` at commit {machine.commit or 'unknown'}"
    yield f"on {machine.platform}, {machine.cpus} CPUs ({matrix.processor}), Python {machine.python}, {versions}."
    yield f"Model: {matrix.model}, quantized by round to nearest; perplexity on {matrix.tokens:,} test tokens."


def _overview(matrix: Matrix) -> Iterator[str]:
    """Schemes down, formats across: mismatched numbers, or the note that says why there are none."""
    formats = list(dict.fromkeys(row.format for row in matrix.rows))
    cells = {(row.scheme, row.format): row for row in matrix.rows}
    notes: list[str] = []
    yield "### Numbers that differ from the checkpoint"
    yield ""
    yield from _head(("scheme", *formats))
    for scheme in dict.fromkeys(row.scheme for row in matrix.rows):
        yield _line(scheme, *(_cell(cells.get((scheme, name)), notes) for name in formats))
    yield ""
    yield "A name behind a number is the `scale_format` or the `rest_dtype` that the format needs in place of the"
    yield "preset's own. A number in brackets is a refusal:"
    yield ""
    yield from (f"{index}. {note}" for index, note in enumerate(notes, start=1))
    yield ""


def _cell(row: Row | None, notes: list[str]) -> str:
    if row is None:
        return ""
    if row.result is None:
        return _note(row.refused, notes)
    count = str(row.result.mismatches) if not row.result.mismatches else f"**{row.result.mismatches}**"
    return f"{count} {', '.join(row.changes.values())}".strip()


def _sections(matrix: Matrix) -> Iterator[str]:
    """One table a format: a row for each scheme and engine."""
    for name in dict.fromkeys(row.format for row in matrix.rows):
        rows = [row for row in matrix.rows if row.format == name and row.result is not None]
        if not rows:
            continue
        yield f"### {name}"
        yield ""
        yield from _head(HEADINGS)
        for row in rows:
            assert row.result is not None
            for engine, result in _engines(row):
                yield _line(row.label, engine, *_numbers(row.result, result))
        yield ""
        yield from (f"- {line}" for line in _remarks(rows))
        yield ""


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What loaded the exports; and, a reason once, why an engine did not."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for engine, result in _engines(row):
            if result.status != "ok":
                said.setdefault(f"{engine}: {_STATUS[result.status]}: {result.reason}", []).append(row.label)
            elif result.reason is not None:
                said.setdefault(f"{result.description}: {result.reason}", []).append(row.label)
            else:
                said.setdefault(f"{engine}: {result.description}", [])
    for text, schemes in said.items():
        line = shorten(text, 400, placeholder=" ...")
        yield f"{line} ({'; '.join(schemes)})" if schemes else line


def _engines(row: Row) -> Iterator[tuple[str, EngineResult]]:
    if row.result is not None:
        yield from row.result.engines.items()


def _numbers(export: ExportResult, result: EngineResult) -> list[str]:
    greedy = DASH if result.greedy_tokens_equal is None else "{}/{}".format(*result.greedy_tokens_equal)
    return [
        str(export.mismatches),
        number(result.max_logit_difference, "{:.1e}".format),
        number(result.perplexity, perplexity),
        greedy,
        human_bytes(export.bytes),
        number(result.prompt_tokens_per_second, rate),
        number(result.generated_tokens_per_second, rate),
        human_bytes(result.peak_memory_bytes),
    ]


def _head(headings: Sequence[str]) -> Iterator[str]:
    yield _line(*headings)
    yield _line(*("---" for _ in headings))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
