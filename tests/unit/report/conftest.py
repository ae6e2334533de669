from __future__ import annotations

from collections.abc import Callable

import pytest

from qat.report.matrix.records import Matrix, Row
from qat.report.metrics import EngineResult, Environment, ExportResult

OK = EngineResult(
    status="ok",
    description="fake 1.0",
    weights_different=0,
    max_logit_difference=1.2e-6,
    perplexity=6.1,
    greedy_tokens_equal=(80, 80),
    prompt_tokens_per_second=2000.0,
    generated_tokens_per_second=85.0,
    peak_memory_bytes=434_000_000,
)
NO_KERNEL = EngineResult(status="not_available", reason="no kernel | here")


@pytest.fixture
def ok() -> EngineResult:
    """An engine that measured everything."""
    return OK


def _export(mismatches: int = 0, **engines: EngineResult) -> ExportResult:
    return ExportResult(bytes=660_000, tensors=29, mismatched_codes=mismatches, mismatched_scales=0, engines=engines)


def _matrix(*rows: Row) -> Matrix:
    machine = Environment(python="3.11.7", platform="Linux x86_64", cpus=2, versions={"qat": "1", "torch": "2.13"})
    return Matrix(command="python it.py", model="tiny", tokens=1020, processor="A CPU, avx2", environment=machine,
                  rows=list(rows))  # fmt: skip


@pytest.fixture
def export() -> Callable[..., ExportResult]:
    """Builds the result of an export with so many mismatches and these engines."""
    return _export


@pytest.fixture
def matrix_of() -> Callable[..., Matrix]:
    """Builds a matrix of rows."""
    return _matrix


@pytest.fixture
def full() -> Matrix:
    """Three schemes in two formats: all that can become of one, and nothing that must not be."""
    return _matrix(
        Row(scheme="w4a16_g32", format="packed", perplexity=6.2, result=_export(fake=OK, vllm=NO_KERNEL)),
        Row(scheme="w4a16_g32", format="gguf", changes={"scale_format": "fp16"}, result=_export(fake=OK)),
        Row(scheme="w8a8", format="packed", result=_export(fake=OK, vllm=NO_KERNEL)),
        Row(scheme="w8a8", format="gguf", refused="holds weights | only"),
        Row(scheme="w8a8_static", format="gguf", refused="holds weights | only"),
    )
