from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.schedule import PrecisionSchedule, PrecisionState
from qat.schedule.phases.dampen import Dampen


def test_the_factor_rises_along_a_cosine_to_strength() -> None:
    factors = [Dampen(strength=4.0).state((k + 1) / 4).dampening for k in range(4)]
    half = 0.5**0.5
    assert factors == pytest.approx([2 * (1 - half), 2.0, 2 * (1 + half), 4.0])


def test_everything_else_is_the_scheme() -> None:
    assert Dampen(strength=2.0).state(1.0) == PrecisionState("dampen", dampening=2.0)


def test_the_table_shows_it() -> None:
    (row,) = PrecisionSchedule({"end": Dampen(strength=1.0)}, 2).rows()
    assert row.details == "dampening 0.5 -> 1"


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match=f"dampen: strength={strength} must be above 0"):
        Dampen(strength=strength)
