from __future__ import annotations

import io

import pytest
from rich.console import Console

from qat.errors import InputError
from qat.report.matrix import BEGIN, END, Matrix, Row, insert, markdown, terminal_table
from qat.report.metrics import EngineResult, Environment, ExportResult

OK = EngineResult(
    status="ok",
    description="fake 1.0",
    max_logit_difference=1.2e-6,
    perplexity=6.1,
    greedy_tokens_equal=(80, 80),
    prompt_tokens_per_second=2000.0,
    generated_tokens_per_second=85.0,
    peak_memory_bytes=434_000_000,
)
NO_KERNEL = EngineResult(status="not_available", reason="no kernel | here")


def export(mismatches: int = 0, **engines: EngineResult) -> ExportResult:
    return ExportResult(bytes=660_000, tensors=29, mismatched_codes=mismatches, mismatched_scales=0, engines=engines)


def matrix(*rows: Row) -> Matrix:
    machine = Environment(python="3.11.7", platform="Linux x86_64", cpus=2, versions={"qat": "1", "torch": "2.13"})
    return Matrix(command="python it.py", model="tiny", tokens=1020, processor="A CPU, avx2", environment=machine,
                  rows=list(rows))  # fmt: skip


FULL = matrix(
    Row(scheme="w4a16_g32", format="packed", perplexity=6.1, result=export(fake=OK, vllm=NO_KERNEL)),
    Row(scheme="w4a16_g32", format="gguf", changes={"scale_format": "fp16"}, result=export(fake=OK)),
    Row(scheme="w8a8", format="packed", result=export(fake=OK, vllm=NO_KERNEL)),
    Row(scheme="w8a8", format="gguf", refused="holds weights | only"),
    Row(scheme="w8a8_static", format="gguf", refused="holds weights | only"),
)


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("| ").replace("\\|", "¦").split("|")]


def test_the_page_has_schemes_down_and_formats_across() -> None:
    text = markdown(FULL)
    assert "Made by `python it.py` at commit unknown" in text
    assert "on Linux x86_64, 2 CPUs (A CPU, avx2), Python 3.11.7, torch 2.13." in text
    assert "1,020 test tokens" in text
    assert cells(text, "| scheme | packed") == ["scheme", "packed", "gguf"]
    assert cells(text, "| w4a16_g32 | 0") == ["w4a16_g32", "0", "0 fp16"]
    assert cells(text, "| w8a8 | 0") == ["w8a8", "0", "(1)"]
    assert cells(text, "| w8a8_static |") == ["w8a8_static", "", "(1)"]
    assert "1. holds weights | only" in text.splitlines()


def test_the_page_has_a_row_for_each_scheme_and_engine() -> None:
    text = markdown(FULL)
    assert cells(text, "| w4a16_g32 | fake") == [
        "w4a16_g32", "fake", "0", "1.2e-06", "6.100", "80/80", "660 kB", "2000", "85", "434 MB",
    ]  # fmt: skip
    assert cells(text, "| w4a16_g32, scale_format=fp16 | fake")[2] == "0"
    assert cells(text, "| w8a8 | vllm")[2:] == ["0", "-", "-", "-", "660 kB", "-", "-", "-"]
    assert "- vllm: not available: no kernel | here (w4a16_g32; w8a8)" in text.splitlines()
    assert text.count("- fake: fake 1.0") == 2, "once a format"


def test_the_terminal_says_the_same() -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(terminal_table(FULL))
    text = console.file.getvalue()
    assert "vllm not_available (1)" in text
    assert "gguf: refused (2)" in text
    assert "(1) no kernel | here" in text
    assert text.count("(2) holds weights | only") == 1


def test_what_must_not_be_is_found() -> None:
    assert FULL.problems == []
    bad = matrix(
        Row(scheme="a", format="x", result=export(3, fake=OK)),
        Row(scheme="b", format="x", result=export(fake=EngineResult(status="failed", reason="crash"))),
    )
    assert bad.problems == ["a in x: 3 numbers differ", "b in x in fake: crash"]
    assert cells(markdown(bad), "| a | **3**") == ["a", "**3**"]


def test_a_page_keeps_what_is_outside_the_markers() -> None:
    page = f"top\n{BEGIN}\nold\n{END}\nbottom\n"
    assert insert(page, "new") == f"top\n{BEGIN}\nnew\n{END}\nbottom\n"
    assert insert(insert(page, "new"), "new") == insert(page, "new")
    for wrong in ("top", f"{BEGIN} {BEGIN} {END}", f"{BEGIN}"):
        with pytest.raises(InputError, match="once each"):
            insert(wrong, "new")
