"""Dividing the steps of a run among the phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.errors import InputError
from qat.schedule.lengths import phase_lengths
from qat.schedule.phase import Phase
from qat.schedule.phases.fake_quant import FakeQuant


def lengths(total: int, *phases: int | float | None) -> list[int]:
    """Lengths of phases given as steps (an int), a share (a float) or the rest (None)."""
    named: dict[str, Phase] = {}
    for name, length in zip("abcdefgh", phases, strict=False):
        steps = length if isinstance(length, int) else None
        named[name] = FakeQuant(steps=steps, share=length if isinstance(length, float) else None)
    return list(phase_lengths(named, total).values())


@pytest.mark.parametrize(
    ("total", "phases", "expected"),
    [
        (10, (None,), [10]),
        (10, (10,), [10]),
        (10, (1.0,), [10]),
        (100, (0.1, None), [10, 90]),
        (100, (0.1, 20, None), [10, 20, 70]),
        (100, (30, None, 0.5), [30, 20, 50]),
        (10, (3, 0.7), [3, 7]),
        (10, (0.25, None), [3, 7]),  # 2.5 and 7.5: a tie, the earlier phase gets the step
        (10, (0.36, 0.33, None), [4, 3, 3]),  # 3.6, 3.3, 3.1: the largest remainder gets it
        (7, (0.5, 0.25, 0.25), [3, 2, 2]),  # 3.5, 1.75, 1.75: 3 + 1 + 1 and two more by remainder
        (5, (0.01, None), [1, 4]),  # a share above 0 is never rounded away
        (3, (0.02, 0.96, 0.02), [1, 1, 1]),  # ... and takes its step from the longest
        (10, (0, None), [0, 10]),  # an explicit 0 skips the phase
        (10, (0.0, None), [0, 10]),
        (10, (0.1, 0.2, 0.7), [1, 2, 7]),  # 0.1 + 0.2 + 0.7 is not 1 in binary
        (30, (1 / 3, 1 / 3, 1 / 3), [10, 10, 10]),
    ],
)
def test_lengths_by_hand(total: int, phases: tuple[int | float | None, ...], expected: list[int]) -> None:
    assert lengths(total, *phases) == expected


@pytest.mark.parametrize(
    ("total", "phases", "message"),
    [
        (100, (None, 0.5, None), r"phases a, c have neither steps nor share; only one can take the rest"),
        (100, (0.3, 80), r"a run of 100 steps: a 30 \(share=0.3\) \+ b 80 steps = 110; make them add up"),
        (100, (0.3, 0.3), r"a 30 \(share=0.3\) \+ b 30 \(share=0.3\) = 60"),
        (50, (100, None), r"a run of 50 steps: a 100 steps \+ b \(the rest\) = 100"),
        (100, (1.0, None), r"a 100 \(share=1\) \+ b \(the rest\) = 100; .*\(at least one step\)"),
        (10, (0,), r"a 0 steps = 0"),
        (2, (0.3, 0.3, None), r"phases a, b, c need at least one step each and 2 are left"),
    ],
)
def test_lengths_that_do_not_fit_are_refused_with_their_numbers(
    total: int, phases: tuple[int | float | None, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lengths(total, *phases)


@given(total=st.integers(10, 10_000), cuts=st.lists(st.floats(0.001, 1), min_size=1, max_size=6))
def test_shares_are_rounded_by_at_most_a_step_and_add_up(total: int, cuts: list[float]) -> None:
    shares = [cut / sum(cuts) for cut in cuts]
    got = lengths(total, *shares)
    assert sum(got) == total
    # A share of less than a step is lifted to one, which may cost the longest phase one step for each.
    lifted = sum(share * total < 1 for share in shares)
    assert all(abs(n - share * total) <= 1 + lifted for n, share in zip(got, shares, strict=True))
    assert min(got) >= 1
