from __future__ import annotations

import pytest

from qat.schedule import PrecisionState
from qat.schedule.phases.freeze_ranges import FreezeRanges


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_everything_is_on_and_ranges_are_not_trained(progress: float) -> None:
    assert FreezeRanges().state(progress) == PrecisionState("freeze_ranges", freeze_ranges=True)
