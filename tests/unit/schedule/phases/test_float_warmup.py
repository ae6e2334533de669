from __future__ import annotations

import pytest

from qat.schedule import PrecisionState
from qat.schedule.phases.float_warmup import FloatWarmup


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_nothing_is_quantized_and_everything_is_trained(progress: float) -> None:
    state = FloatWarmup().state(progress)
    assert state == PrecisionState("float_warmup", weights=False, activations=False)
    assert not state.quantizes
