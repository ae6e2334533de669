from __future__ import annotations

import pytest

from qat.schedule import PrecisionState
from qat.schedule.phases.fake_quant import FakeQuant


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_everything_is_on_as_the_scheme_says(progress: float) -> None:
    assert FakeQuant().state(progress) == PrecisionState("fake_quant", weights=True, activations=True, mix=1.0)
