"""Which float model a recovery is against, and the recovery itself."""

from __future__ import annotations

import pytest

from qat.jobs.stages.evaluation import float_reference, with_recovery
from qat.report.metrics import Quality


@pytest.mark.parametrize(
    ("tuned", "expected"), [(None, "base"), (1.4, "tuned_float"), (1.5, "tuned_float"), (1.6, "base")]
)
def test_the_better_float_model_is_the_reference(tuned: float | None, expected: str) -> None:
    assert float_reference(Quality(loss=1.5), None if tuned is None else Quality(loss=tuned)) == expected


def test_recovery_is_the_share_of_the_loss_won_back() -> None:
    base, tuned, ptq = Quality(loss=1.6), Quality(loss=1.5), Quality(loss=1.7, of="tuned_float")
    result = with_recovery(Quality(loss=1.55, bytes=7), base, tuned, {"rtn": ptq})
    assert result.recovery["rtn"] == pytest.approx((1.7 - 1.55) / (1.7 - 1.5))
    assert (result.recovery_against, result.loss, result.bytes) == ("tuned_float", 1.55, 7)


def test_a_worse_tuned_float_leaves_the_base_in_both_terms() -> None:
    base, tuned, ptq = Quality(loss=1.5), Quality(loss=1.6), Quality(loss=1.7, of="base")
    result = with_recovery(Quality(loss=1.6), base, tuned, {"rtn": ptq})
    assert result.recovery["rtn"] == pytest.approx(0.5)
    assert result.recovery_against == "base"


def test_an_undefined_recovery_says_why() -> None:
    lossless = with_recovery(Quality(loss=1.5), Quality(loss=1.5), None, {"rtn": Quality(loss=1.5)})
    assert lossless.recovery == {"rtn": None}
    assert "PTQ lost nothing" in lossless.recovery_undefined["rtn"]
    encoder = with_recovery(Quality(cosine=0.9), Quality(cosine=1.0), None, {"rtn": Quality(cosine=0.8)})
    assert encoder.recovery == {"rtn": None}
    assert encoder.recovery_undefined["rtn"] == "an encoder has no loss in nats"
