"""The matrix as the part of ``docs/engines.md`` that is between two markers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import shorten

from qat.errors import InputError
from qat.report.engines import STATUS, engine_cells
from qat.report.matrix.notes import Notes
from qat.report.matrix.records import Matrix, Row
from qat.report.tables import human_bytes

BEGIN, END = "<!-- begin: scripts/engine_matrix.py -->", "<!-- end: scripts/engine_matrix.py -->"
ENGINE_HEADINGS = ("≠ in engine", "max Δ logit", "perplexity", "greedy", "prompt/s", "generated/s", "memory")


def insert(page: str, part: str) -> str:
    """``page`` with ``part`` between its markers.

    Raises:
        InputError: the page does not have both markers once.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f"the page needs the lines '{BEGIN}' and '{END}', once each")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{part}\n{END}{rest.partition(END)[2]}"


def markdown(matrix: Matrix) -> str:
    """What goes between the markers."""
    return "\n".join([*_origin(matrix), "", *_overview(matrix), *_sections(matrix)])


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
    notes = Notes()
    yield "### Numbers that differ from the checkpoint"
    yield ""
    yield from _head("scheme", *formats)
    for scheme in dict.fromkeys(row.scheme for row in matrix.rows):
        yield _line(scheme, *(_cell(cells.get((scheme, name)), notes) for name in formats))
    yield ""
    yield "A name behind a number is the `scale_format` or the `rest_dtype` that the format needs in place of the"
    yield "preset's own. A number in brackets is a refusal:"
    yield ""
    yield from (f"{index}. {text}" for index, text in enumerate(notes.texts, start=1))
    yield ""


def _cell(row: Row | None, notes: Notes) -> str:
    if row is None:
        return ""
    if row.result is None:
        return notes.mark(str(row.refused))
    return f"{_count(row.result.mismatches)} {', '.join(row.changes.values())}".strip()


def _sections(matrix: Matrix) -> Iterator[str]:
    """One table a format: a row for each scheme and engine."""
    for name in dict.fromkeys(row.format for row in matrix.rows):
        rows = [row for row in matrix.rows if row.format == name and row.result is not None]
        if not rows:
            continue
        yield f"### {name}"
        yield ""
        yield from _head("scheme", "engine", "≠", "size", *ENGINE_HEADINGS)
        for row in rows:
            yield from _engine_lines(row)
        yield ""
        yield from (f"- {line}" for line in _remarks(rows))
        yield ""


def _engine_lines(row: Row) -> Iterator[str]:
    assert row.result is not None
    for engine, result in row.engines.items():
        size = human_bytes(row.result.bytes)
        yield _line(row.label, engine, _count(row.result.mismatches), size, *engine_cells(result))


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What loaded the exports; and, a reason once, why an engine did not."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for engine, result in row.engines.items():
            if result.status != "ok":
                status = STATUS[result.status] if result.status == "not_available" else f"**{STATUS[result.status]}**"
                said.setdefault(f"{engine}: {status}: {result.reason}", []).append(row.label)
            elif result.reason is not None:
                said.setdefault(f"{result.description}: {result.reason}", []).append(row.label)
            else:
                said.setdefault(f"{engine}: {result.description}", [])
    for text, schemes in said.items():
        line = shorten(text, 400, placeholder=" ...")
        yield f"{line} ({'; '.join(schemes)})" if schemes else line


def _count(count: int) -> str:
    return f"**{count:,}**" if count else "0"


def _head(*headings: str) -> Iterator[str]:
    yield _line(*headings)
    yield _line(*("---" for _ in headings))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
