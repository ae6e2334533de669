from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.schedule.phases.blend import Blend


def mixes(phase: Blend, steps: int) -> list[float]:
    return [phase.state((k + 1) / steps).mix for k in range(steps)]


def test_linear() -> None:
    assert mixes(Blend(), 4) == [0.25, 0.5, 0.75, 1.0]


def test_cosine() -> None:
    # (1 - cos(pi / 3)) / 2 = 1/4, (1 - cos(2 pi / 3)) / 2 = 3/4
    assert mixes(Blend(curve="cosine"), 3) == pytest.approx([0.25, 0.75, 1.0], abs=1e-15)


@pytest.mark.parametrize("curve", ["linear", "cosine"])
def test_the_last_step_is_at_exactly_1_and_everything_is_on(curve: str) -> None:
    state = Blend(curve=curve).state(1.0)  # type: ignore[arg-type]
    assert state.mix == 1.0
    assert state.weights
    assert state.activations


def test_another_curve_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="blend: curve=cosinus must be linear or cosine; did you mean 'cosine'?"):
        Blend(curve="cosinus")  # type: ignore[arg-type]
