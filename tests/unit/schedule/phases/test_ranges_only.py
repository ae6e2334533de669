from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.schedule import PrecisionSchedule, PrecisionState
from qat.schedule.phases.fake_quant import FakeQuant
from qat.schedule.phases.ranges_only import RangesOnly


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_weights_are_frozen_and_rates_scaled(progress: float) -> None:
    expected = PrecisionState("ranges_only", freeze_weights=True, lr_scale=0.2)
    assert RangesOnly(rate=0.2).state(progress) == expected
    assert expected.trains_ranges_only


def test_the_schedule_knows() -> None:
    assert PrecisionSchedule({"a": FakeQuant(), "b": RangesOnly(steps=1)}, 3).trains_ranges_only
    assert not PrecisionSchedule({"a": FakeQuant()}, 3).trains_ranges_only


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(InputError, match=r"ranges_only: rate=-1 must be 0 or more"):
        RangesOnly(rate=-1)
