from __future__ import annotations

from collections.abc import Callable

import pytest

from qat.errors import InputError
from qat.report.matrix.page import BEGIN, END, insert, markdown
from qat.report.matrix.records import Matrix, Row
from qat.report.metrics import ExportResult


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_schemes_go_down_and_formats_across(full: Matrix) -> None:
    text = markdown(full)
    assert "Made by `python it.py` at commit unknown" in text
    assert "on Linux x86_64, 2 CPUs (A CPU, avx2), Python 3.11.7, torch 2.13." in text
    assert "1,020 test tokens" in text
    assert cells(text, "| scheme | packed") == ["scheme", "packed", "gguf"]
    assert cells(text, "| w4a16_g32 | 0") == ["w4a16_g32", "0", "0 fp16"]
    assert cells(text, "| w8a8 | 0") == ["w8a8", "0", "(1)"]
    assert cells(text, "| w8a8_static |") == ["w8a8_static", "", "(1)"]
    assert "1. holds weights | only" in text.splitlines()


def test_each_scheme_and_engine_has_a_row(full: Matrix) -> None:
    text = markdown(full)
    assert cells(text, "| scheme | engine") == [
        "scheme", "engine", "≠", "size", "≠ in engine", "max Δ logit", "perplexity", "greedy", "prompt/s",
        "generated/s", "memory",
    ]  # fmt: skip
    assert cells(text, "| w4a16_g32 | fake") == [
        "w4a16_g32", "fake", "0", "660 kB", "0", "1.2e-06", "6.100", "80/80", "2000", "85", "434 MB",
    ]  # fmt: skip
    assert cells(text, "| w4a16_g32, scale_format=fp16 | fake")[2] == "0"
    assert cells(text, "| w8a8 | vllm")[2:] == ["0", "660 kB", *("-" for _ in range(7))]
    assert "- vllm: not available: no kernel | here (w4a16_g32; w8a8)" in text.splitlines()
    assert text.count("- fake: fake 1.0") == 2, "once a format"


def test_numbers_that_differ_stand_out(matrix_of: Callable[..., Matrix], export: Callable[..., ExportResult]) -> None:
    assert cells(markdown(matrix_of(Row(scheme="a", format="x", result=export(3)))), "| a | **3**") == ["a", "**3**"]


def test_what_is_outside_the_markers_is_kept() -> None:
    page = f"top\n{BEGIN}\nold\n{END}\nbottom\n"
    assert insert(page, "new") == f"top\n{BEGIN}\nnew\n{END}\nbottom\n"
    assert insert(insert(page, "new"), "new") == insert(page, "new")
    for wrong in ("top", f"{BEGIN} {BEGIN} {END}", f"{BEGIN}"):
        with pytest.raises(InputError, match="once each"):
            insert(wrong, "new")
