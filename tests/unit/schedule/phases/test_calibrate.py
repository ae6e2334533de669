from __future__ import annotations

import pytest

from qat.schedule import PrecisionState
from qat.schedule.phases.calibrate import Calibrate


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_observers_see_the_float_model_and_nothing_is_trained(progress: float) -> None:
    state = Calibrate().state(progress)
    assert state == PrecisionState(
        "calibrate", weights=False, activations=False, observe=True, freeze_weights=True, freeze_ranges=True
    )
    assert not state.quantizes
