from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from qat.report.matrix.records import Matrix, Row
from qat.report.metrics import EngineResult, ExportResult


def test_a_row_is_called_as_it_was_quantized() -> None:
    changes = {"scale_format": "lossless_fp16", "rest_dtype": "float16"}
    assert Row(scheme="w8a16", format="x").label == "w8a16"
    assert (
        Row(scheme="w8a16", format="x", changes=changes).label
        == "w8a16, scale_format=lossless_fp16, rest_dtype=float16"
    )
    assert Row(scheme="w8a16", format="x", refused="no").engines == {}


def test_what_must_not_be_is_found(
    full: Matrix,
    matrix_of: Callable[..., Matrix],
    export: Callable[..., ExportResult],
    ok: EngineResult,
) -> None:
    assert full.problems == []
    other = ok.model_copy(update={"weights_different": 7})
    bad = matrix_of(
        Row(scheme="a", format="x", result=export(3, fake=ok)),
        Row(scheme="b", format="x", result=export(fake=EngineResult(status="failed", reason="crash"))),
        Row(scheme="c", format="x", result=export(fake=other)),
    )
    assert bad.problems == [
        "a in x: 3 numbers differ",
        "b in x in fake: crash",
        "c in x in fake: 7 of the weights that it computes with differ",
    ]


def test_the_numbers_are_read_as_they_were_written(full: Matrix) -> None:
    assert Matrix.model_validate_json(full.model_dump_json()) == full
    with pytest.raises(ValidationError, match="extra"):
        Row.model_validate({"scheme": "a", "format": "x", "refussed": "no"})
