"""The matrix on a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qat.report.engines import HEADINGS, STATUS, STYLE, engine_cells
from qat.report.matrix.notes import Notes
from qat.report.matrix.records import Matrix, Row
from qat.report.tables import DASH, human_bytes, number, perplexity

_CAPTION = (
    "≠: numbers in the file that differ from the checkpoint's; ≠ in engine: weights that it computes with, "
    "where it tells; ppl beside a size: of the checkpoint, in qat itself; prompt, gen.: tokens/s"
)
_WIDTHS = (6, 7, 6, 6, 6, 5, 7)
"""Of an engine's cells: the tables of all formats are columns of one."""


def terminal_table(matrix: Matrix) -> RenderableType:
    """Schemes, below each its formats, below each its engines; at the end why some have no numbers."""
    notes = Notes()
    names = [*(row.scheme for row in matrix.rows), *(f"    {engine}" for row in matrix.rows for engine in row.engines)]
    width = max(map(len, names), default=0)
    parts: list[RenderableType] = [Text(f"{matrix.model}: schemes, formats, engines", "bold")]
    for scheme, rows in groupby(matrix.rows, attrgetter("scheme")):
        parts += [Text(), _table(width, scheme)]
        for row in rows:
            parts += _format(row, width, notes)
    parts += [Text(), Text(_CAPTION, "dim italic")]
    return Group(*parts, *(Text(f"({index}) {text}") for index, text in enumerate(notes.texts, start=1)))


def _format(row: Row, width: int, notes: Notes) -> Iterator[RenderableType]:
    """The format's own numbers; a table of the engines that have any; a line for each that says why it has none."""
    name = f"{row.format} with {row.changed}" if row.changes else row.format
    if row.result is None:
        yield _indented(Text(f"{name}: refused {notes.mark(str(row.refused))}", "dim"), 2)
        return
    count = (f"≠ {row.result.mismatches:,}", "bold red" if row.result.mismatches else "green")
    facts = f", {human_bytes(row.result.bytes)}, ppl {number(row.perplexity, perplexity)}"
    yield _indented(Text.assemble(f"{name}: ", count, facts), 2)
    table = _table(width)
    for engine, result in row.engines.items():
        cells = engine_cells(result)
        if any(cell != DASH for cell in cells):
            table.add_row(f"    {engine}", *cells, style=STYLE[result.status])
    if table.row_count:
        yield table
    for engine, result in row.engines.items():
        if result.reason is not None:
            text = f"{engine}: {STATUS[result.status]} {notes.mark(result.reason)}"
            yield _indented(Text(text, STYLE[result.status]), 4)


def _table(width: int, heading: str = "") -> Table:
    """Without a row and with a heading, or the other way round."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(heading))
    table.add_column(heading, min_width=width, no_wrap=True, vertical="bottom")
    for text, least in zip(HEADINGS, _WIDTHS, strict=True):
        table.add_column(text, justify="right", min_width=least, no_wrap=True, vertical="bottom")
    return table


def _indented(text: Text, columns: int) -> Padding:
    """What does not fit a line goes on below its own beginning."""
    return Padding(text, (0, 0, 0, columns), expand=False)
