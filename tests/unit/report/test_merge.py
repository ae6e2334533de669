"""What stays of an export's earlier results when a part of it is measured again."""

from __future__ import annotations

from typing import Any

import pytest

from qat.report.merge import merged
from qat.report.metrics import EngineResult, ExportResult

OK = EngineResult(status="ok", description="vllm 1", loss=1.5, perplexity=4.48, max_logit_difference=0.1)
AGAIN = EngineResult(status="ok", description="transformers 5", loss=1.6, perplexity=4.95, max_logit_difference=0.2)
FAILED = EngineResult(status="failed", reason="other logits")
ABSENT = EngineResult(status="not_available", reason="not installed")


def result(files: str | None = "a", **fields: Any) -> ExportResult:
    return ExportResult(
        **{"bytes": 1, "tensors": 2, "mismatched_codes": 0, "mismatched_scales": 0, "files_sha256": files} | fields
    )


def first(engine: EngineResult) -> dict[str, Any]:
    return {"engine": engine.description, **engine.model_dump(include={"loss", "perplexity", "max_logit_difference"})}


def test_an_engine_that_was_not_asked_keeps_what_it_measured_of_the_same_files() -> None:
    before = result(engines={"vllm": OK}, **first(OK))
    now = result(engines={"transformers": AGAIN}, **first(AGAIN))
    both = merged(before, now)
    assert both.engines == {"vllm": OK, "transformers": AGAIN}
    assert (both.engine, both.loss) == (AGAIN.description, 1.6), "what was measured last stands for the export"
    assert merged(before, result()) == before


@pytest.mark.parametrize("measured", [OK, FAILED])
def test_an_engine_that_is_not_available_takes_back_nothing(measured: EngineResult) -> None:
    assert merged(result(engines={"vllm": measured}), result(engines={"vllm": ABSENT})).engines == {"vllm": measured}


@pytest.mark.parametrize(("before", "now"), [(ABSENT, OK), (OK, FAILED), (FAILED, OK), (ABSENT, ABSENT)])
def test_what_was_measured_now_replaces_what_was_before(before: EngineResult, now: EngineResult) -> None:
    assert merged(result(engines={"vllm": before}), result(engines={"vllm": now})).engines == {"vllm": now}


@pytest.mark.parametrize("before", [None, result("b", engines={"vllm": OK}), result(None, engines={"vllm": OK})])
def test_results_of_other_files_go(before: ExportResult | None) -> None:
    now = result(engines={"vllm": ABSENT})
    assert merged(before, now) == now


def test_files_without_a_digest_are_never_the_same() -> None:
    assert merged(result(None, engines={"vllm": OK}), result(None)).engines == {}
