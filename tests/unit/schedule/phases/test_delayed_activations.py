from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.schedule.phases.delayed_activations import DelayedActivations


# A phase of 10 steps is at 0.1 ... 1.0, so that a delay of 0.3 covers exactly its first 3 steps.
@pytest.mark.parametrize(("delay", "off"), [(0.0, 0), (0.3, 3), (0.5, 5), (0.55, 5), (0.95, 9)])
def test_activations_come_after_the_delay_and_weights_are_on_throughout(delay: float, off: int) -> None:
    states = [DelayedActivations(delay=delay).state((k + 1) / 10) for k in range(10)]
    assert [state.activations for state in states] == [False] * off + [True] * (10 - off)
    assert all(state.weights and state.weight_bits is None and state.mix == 1 for state in states)


@pytest.mark.parametrize("delay", [-0.1, 1.0, float("nan")])
def test_a_delay_that_never_ends_is_refused(delay: float) -> None:
    with pytest.raises(InputError, match=f"delayed_activations: delay={delay} must be 0 or more and below 1"):
        DelayedActivations(delay=delay)
