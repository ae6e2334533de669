from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.schedule.phases.cooldown import Cooldown


def test_rates_fall_linearly_to_final() -> None:
    scales = [Cooldown(final=0.2).state((k + 1) / 4).lr_scale for k in range(4)]
    assert scales == pytest.approx([0.8, 0.6, 0.4, 0.2], abs=1e-15)  # 1 - (1 - 0.2) * progress


@pytest.mark.parametrize("final", [0.0, 0.1, 1 / 3, 1.0])
def test_the_last_step_is_at_exactly_final(final: float) -> None:
    state = Cooldown(final=final).state(1.0)
    assert state.lr_scale == final
    assert state.quantizes


@pytest.mark.parametrize("final", [-0.1, 1.1])
def test_a_factor_out_of_range_is_refused(final: float) -> None:
    with pytest.raises(InputError, match=f"cooldown: final={final} must be from 0 to 1"):
        Cooldown(final=final)
