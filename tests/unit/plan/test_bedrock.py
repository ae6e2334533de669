from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.plan.scale import Scale


def windows(outcome) -> float:
    """5-minute windows of 2 units."""
    return outcome.costs[0].quantity / 10


@pytest.mark.parametrize(
    ("second_call", "count"),
    # One call of 11 s from 60 on; the copy stops 300 s after its last call.
    [(None, 2), (200, 2), (240, 2), (348.9, 2), (349.1, 3), (371, 3)],
)
def test_windows_from_the_first_call_of_a_copy(make, second_call, count) -> None:
    # The copy runs from 60 to (second call + 11 + 300), if that call came before it stopped at 371.
    calls = [(0, 1000, 300)] + ([(second_call, 1000, 300)] if second_call else [])
    outcome = make.bedrock().simulate(make.case(*calls))
    assert windows(outcome) == count


def test_a_copy_without_a_call_is_not_billed(make) -> None:
    # Three calls of 2 s on two places: the second copy comes at 60 as the first does, and has nothing to do later.
    outcome = make.bedrock(start_seconds=make.quote(60)).simulate(
        make.case((0, 1000, 30), (0.5, 1000, 30), (50, 1000, 30))
    )
    # Copy 1 serves at 60 until 62 and the third from 62 to 64; copy 2 is ready at 110.
    assert outcome.begin.tolist() == [60, 60, 62]
    assert windows(outcome) == 2


def test_windows_that_begin_after_the_end_are_not_paid(make) -> None:
    assert windows(make.bedrock().simulate(make.case((0, 1000, 300), seconds=100.0))) == 1
    assert windows(make.bedrock().simulate(make.case((0, 1000, 300), seconds=50.0))) == 0


def test_storage_is_paid_without_calls_and_once_for_all_cells(make) -> None:
    for scale in (Scale(), Scale(cells=4)):
        compute, storage = make.bedrock().simulate(make.case(seconds=30 * 86_400.0, scale=scale)).costs
        assert compute.amount == 0
        assert storage.amount == pytest.approx(2 * 1.95 * 30 / (365 / 12))


def test_cells_multiply_copies(make) -> None:
    one = make.bedrock().simulate(make.case((0, 1000, 300)))
    four = make.bedrock().simulate(make.case((0, 1000, 300), scale=Scale(cells=4)))
    assert windows(four) == 4 * windows(one)
    assert four.changes[:, 1].tolist() == [4, -4]


def test_quota_makes_requests_wait(make) -> None:
    calls = [(0, 1000, 300)] * 3
    begin = make.bedrock(max_copies=make.quote(1)).simulate(make.case(*calls)).begin
    assert begin.tolist() == pytest.approx([60, 60, 71])


def test_refused_options(make) -> None:
    with pytest.raises(InputError, match="window_seconds=0 must be above 0"):
        make.bedrock(window_seconds=make.quote(0))
    with pytest.raises(InputError, match="max_copies=0 must be at least 1"):
        make.bedrock(max_copies=make.quote(0))
