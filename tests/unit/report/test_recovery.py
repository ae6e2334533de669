from __future__ import annotations

import pytest

from qat.report.recovery import recovery, reference


@pytest.mark.parametrize(
    ("ptq", "qat", "base", "expected"),
    [(1.66, 1.54, 1.5, 0.75), (2, 1, 1, 1.0), (2, 2, 1, 0.0), (2, 2.5, 1, -0.5), (2, 0.5, 1, 1.5)],
)
def test_share_of_the_loss_that_was_won_back(ptq, qat, base, expected):
    result = recovery(ptq, qat, base)
    assert result.value == pytest.approx(expected)
    assert result.reason == ""


@pytest.mark.parametrize("ptq", [1.5, 1.4, float("nan")])
def test_it_is_undefined_where_ptq_lost_nothing(ptq):
    result = recovery(ptq_loss=ptq, qat_loss=1.4, float_loss=1.5)
    assert result.value is None
    assert "PTQ lost nothing" in result.reason


def test_the_tuned_float_counts_unless_it_is_worse_than_the_base():
    assert reference(base_loss=1.5, tuned_float_loss=1.4) == "tuned_float"
    assert reference(base_loss=1.5, tuned_float_loss=1.5) == "tuned_float"
    assert reference(base_loss=1.5, tuned_float_loss=1.6) == "base"
    assert reference(base_loss=1.5, tuned_float_loss=None) == "base"
