from __future__ import annotations

from typing import Any

import pytest

from qat.errors import InputError
from qat.schedule import PrecisionState
from qat.schedule.phases.progressive_bits import ProgressiveBits


def bits_of(phase: ProgressiveBits, steps: int) -> list[int | None]:
    return [phase.state((k + 1) / steps).weight_bits for k in range(steps)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (6, [8, 8, 6, 6, 4, 4]),
        (7, [8, 8, 6, 6, 4, 4, 4]),  # 1/7, 2/7 <= 1/3 < 3/7, 4/7 <= 2/3 < 5/7
        (3, [8, 6, 4]),
        (2, [6, 4]),  # at 1/2 and 1: too short for every width, but it ends at the last one
        (1, [4]),
    ],
)
def test_equal_stretches(steps: int, expected: list[int]) -> None:
    assert bits_of(ProgressiveBits(bits=(8, 6, 4)), steps) == expected


def test_stretches_by_share() -> None:
    phase = ProgressiveBits(bits=(8, 4, 2), shares=(0.1, 0.2, 0.7))
    assert phase.edges == pytest.approx((0.1, 0.3))
    assert bits_of(phase, 10) == [8, 4, 4, 2, 2, 2, 2, 2, 2, 2]


def test_a_sum_of_shares_just_below_a_step_does_not_begin_the_next_stretch_early() -> None:
    assert 0.7 + 0.1 < 0.8  # in binary
    phase = ProgressiveBits(bits=(8, 6, 4), shares=(0.7, 0.1, 0.2))
    assert bits_of(phase, 10) == [8] * 7 + [6] + [4] * 2
    assert phase.jumps(10) == [7, 8]


def test_everything_else_is_on_and_the_ranges_are_trained() -> None:
    assert ProgressiveBits(bits=(5,)).state(0.5) == PrecisionState("progressive_bits", weight_bits=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": ()}, r"progressive_bits: bits=\[\] must name at least one"),
        ({"bits": (8, 1)}, "progressive_bits: bits=1 must be an integer from 2 to 8"),
        ({"bits": (16, 8)}, "bits=16 must be an integer from 2 to 8"),
        (
            {"bits": (8, 4), "shares": (1.0,)},
            r"shares=\[1.0\] must be 2 shares, one for each of bits=\[8, 4\]",
        ),
        ({"bits": (8, 4), "shares": (0.5, 0.6)}, r"shares=\[0.5, 0.6\] must be .* that add up to 1"),
        ({"bits": (8, 4), "shares": (1.5, -0.5)}, "shares=1.5 must be a share from 0 to 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProgressiveBits(**options)
