from __future__ import annotations

from typing import Any

import pytest

from qat.errors import InputError
from qat.schedule.phases.layerwise import Layerwise


def blocks_of(phase: Layerwise, steps: int, num_blocks: int) -> list[tuple[int, ...]]:
    return [phase.state((k + 1) / steps).quantized_blocks(num_blocks) for k in range(steps)]


def test_front_to_back_gives_every_block_an_equal_stretch() -> None:
    assert blocks_of(Layerwise(), steps=6, num_blocks=3) == [(0,), (0,), (0, 1), (0, 1), (0, 1, 2), (0, 1, 2)]


def test_back_to_front() -> None:
    assert blocks_of(Layerwise(order="back_to_front"), steps=3, num_blocks=3) == [(2,), (2, 1), (2, 1, 0)]


def test_a_given_order() -> None:
    assert blocks_of(Layerwise(order=(1, 2, 0)), steps=3, num_blocks=3) == [(1,), (1, 2), (1, 2, 0)]


def test_until_leaves_the_rest_of_the_phase_fully_quantized() -> None:
    states = [Layerwise(until=0.5).state((k + 1) / 8) for k in range(8)]
    assert [state.blocks for state in states] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("until", [0.1, 0.3, 1 / 3, 0.7, 1.0])
def test_it_ends_at_exactly_1(until: float) -> None:
    assert Layerwise(until=until).state(1.0).blocks == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "sideways"}, "layerwise: order=sideways must be front_to_back, back_to_front or a list"),
        ({"order": (0, 0, 1)}, r"order=\[0, 0, 1\] must be"),
        ({"order": ()}, r"order=\[\] must be"),
        ({"until": 0.0}, "layerwise: until=0.0 must be above 0 and at most 1"),
        ({"until": 1.5}, "until=1.5 must be above 0 and at most 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Layerwise(**options)
