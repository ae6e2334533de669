"""Means, spreads and recoveries of a table, against numbers computed by hand."""

from __future__ import annotations

import pytest

from qat.report.compare import RowResult, SeedResult, statistics, summarize
from qat.report.metrics import Quality


def row(name: str, kind: str, losses: list[float | None], **changes: object) -> RowResult:
    """A row with a loss a seed, from seed 0 on."""
    seeds = [
        SeedResult(
            row=name,
            seed=seed,
            quality=None if loss is None else Quality(loss=loss, perplexity=2.0, kl=0.1, top1_agreement=0.5, bytes=7),
            tokens=10,
            seconds=1.0 + seed,
        )
        for seed, loss in enumerate(losses)
    ]
    return RowResult(name=name, title=name.upper(), kind=kind, seeds=seeds, **changes)


def table() -> list[RowResult]:
    return [
        row("tuned_float", "float", [1.0, 1.1]),
        row("rtn", "ptq", [2.0, 2.1]),
        row("gptq", "ptq", [1.5, 1.5]),
        row("lsq", "trained", [1.25, 1.3]),
    ]


def test_statistics_of_three_seeds_and_of_one() -> None:
    three = statistics([1.0, 2.0, 6.0])
    assert (three.mean, three.least, three.most) == (3.0, 1.0, 6.0)
    assert three.std == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert statistics([4.0]).std is None


def test_recoveries_compare_one_seed_and_are_then_averaged() -> None:
    rows, best = summarize(table(), Quality(loss=3.0))
    assert best == "gptq"
    lsq = rows[-1]
    first, second = lsq.seeds
    assert first.recovery_rtn == pytest.approx((2.0 - 1.25) / (2.0 - 1.0))
    assert second.recovery_rtn == pytest.approx((2.1 - 1.3) / (2.1 - 1.1))
    assert first.recovery_best_ptq == pytest.approx((1.5 - 1.25) / (1.5 - 1.0))
    assert second.recovery_best_ptq == pytest.approx((1.5 - 1.3) / (1.5 - 1.1))
    assert lsq.statistics["recovery_rtn"].mean == pytest.approx(0.775)
    assert lsq.statistics["recovery_best_ptq"].mean == pytest.approx(0.5)
    assert lsq.statistics["loss"].mean == pytest.approx(1.275)
    assert lsq.statistics["loss"].std == pytest.approx(0.05 / 2**0.5)
    assert (lsq.bytes, lsq.tokens, lsq.seconds) == (7, 10, 1.5)


def test_the_methods_themselves_recover_nothing_of_their_own_loss() -> None:
    rows, _ = summarize(table(), Quality(loss=3.0))
    found = {one.name: one.statistics for one in rows}
    assert found["rtn"]["recovery_rtn"].mean == found["gptq"]["recovery_best_ptq"].mean == 0.0
    assert found["gptq"]["recovery_rtn"].mean == pytest.approx((0.5 + 0.6) / 2)
    assert "recovery_rtn" not in found["tuned_float"]


def test_a_base_that_is_better_than_the_tuned_float_takes_its_place() -> None:
    rows, _ = summarize(table(), Quality(loss=0.5))
    assert {one.against for one in rows[-1].seeds} == {"base"}
    assert rows[-1].seeds[0].recovery_rtn == pytest.approx((2.0 - 1.25) / (2.0 - 0.5))


def test_there_is_no_share_of_a_loss_that_is_only_noise() -> None:
    rows = [row("tuned_float", "float", [1.0]), row("rtn", "ptq", [1.0009]), row("lsq", "trained", [1.0])]
    summarized, best = summarize(rows, Quality(loss=3.0))
    assert best == "rtn"
    assert summarized[-1].seeds[0].recovery_rtn is None


def test_a_row_that_was_left_out_has_no_statistics_and_is_not_the_best() -> None:
    rows = [*table(), row("smoothquant", "ptq", [], reason="no activations")]
    summarized, best = summarize(rows, Quality(loss=3.0))
    assert best == "gptq"
    assert summarized[-1].statistics == {}
    assert summarized[-1].reason == "no activations"


def test_a_seed_without_the_other_row_has_no_recovery() -> None:
    rows = [*table()[:1], row("rtn", "ptq", [2.0]), row("lsq", "trained", [1.25, 1.3])]
    summarized, _ = summarize(rows, Quality(loss=3.0))
    assert [one.recovery_rtn for one in summarized[-1].seeds] == [0.75, None]
