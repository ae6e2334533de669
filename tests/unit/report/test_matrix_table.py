from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from qat.report.matrix.records import Matrix, Row
from qat.report.matrix.table import terminal_table
from qat.report.metrics import EngineResult, ExportResult


def lines_of(matrix: Matrix, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(terminal_table(matrix))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    return lines


@pytest.mark.parametrize("width", [80, 150])
def test_formats_are_below_their_scheme_and_engines_below_their_format(full: Matrix, width: int) -> None:
    lines = lines_of(full, width)
    (first,) = [index for index, line in enumerate(lines) if line.startswith("w4a16_g32")]
    assert lines[first - 1].split() == ["≠", "in"]
    assert lines[first].split() == ["w4a16_g32", "engine", "Δ", "logit", "ppl", "greedy", "prompt", "gen.", "memory"]
    assert lines[first + 1] == "  packed: ≠ 0, 660 kB, ppl 6.200"
    assert lines[first + 2].split() == ["fake", "0", "1.2e-06", "6.100", "80/80", "2000", "85", "434", "MB"]
    assert lines[first + 3] == "    vllm: not available (1)"
    assert lines[first + 4] == "  gguf with scale_format=fp16: ≠ 0, 660 kB, ppl -"
    assert lines.count("  gguf: refused (2)") == 2
    assert lines[-2:] == ["(1) no kernel | here", "(2) holds weights | only"]


def test_the_tables_are_columns_of_one(full: Matrix) -> None:
    lines = lines_of(full, 80)
    headings = [line for line in lines if line.endswith("memory")]
    numbers = [line for line in lines if line.endswith("434 MB")]
    assert {len(line) for line in [*headings, *numbers]} == {len(headings[0])}


def test_an_engine_that_failed_keeps_the_numbers_that_it_has(
    matrix_of: Callable[..., Matrix], export: Callable[..., ExportResult], ok: EngineResult
) -> None:
    failed = ok.model_copy(update={"status": "failed", "reason": "another model"})
    lines = lines_of(matrix_of(Row(scheme="a", format="x", result=export(3, fake=failed))), 80)
    assert "  x: ≠ 3, 660 kB, ppl -" in lines
    assert any(line.startswith("    fake ") and line.endswith("434 MB") for line in lines)
    assert "    fake: failed (1)" in lines


def test_the_longest_names_fit_80_columns(
    matrix_of: Callable[..., Matrix], export: Callable[..., ExportResult], ok: EngineResult
) -> None:
    slow = ok.model_copy(update={"max_logit_difference": 1.2e-6, "peak_memory_bytes": 1_820_000_000})
    changes = {"scale_format": "lossless_fp16", "rest_dtype": "float16"}
    form = "dequantized, dialect=transformers_4_51"
    row = Row(scheme="w8a16", format=form, changes=changes, result=export(transformers_4_51=slow))
    lines = lines_of(matrix_of(row), 80)
    assert "    transformers_4_51       0  1.2e-06   6.100   80/80    2000     85  1.82 GB" in lines
    assert f"  {form} with scale_format=lossless_fp16," in lines
    assert "  rest_dtype=float16: ≠ 0, 660 kB, ppl -" in lines
