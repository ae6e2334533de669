from __future__ import annotations

import pytest

from qat.plan.scale import MIN_PLACES, Scale


@pytest.mark.parametrize(
    ("expected", "places", "scale"),
    [
        (1000, 16, (1, 1)),  # all of them are followed
        (1001, 16, (1, 2)),  # 1 of 2, at half the places
        (5000, 16, (3, 2)),  # 16 places have no room for more grain
        (5000, 128, (1, 8)),  # the smallest grain that needs one cell; 5 does not divide 128
        (100_000, 128, (7, 16)),
        (5000, 7, (5, 1)),  # fewer places than a thinned replica keeps
    ],
)
def test_choose(expected: float, places: int, scale: tuple[int, int]) -> None:
    chosen = Scale.choose(expected, places, max_requests=1000)
    assert (chosen.cells, chosen.grain) == scale
    assert expected / chosen.factor <= 1000 and places % chosen.grain == 0
    assert chosen.grain == 1 or places // chosen.grain >= MIN_PLACES
