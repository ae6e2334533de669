from __future__ import annotations

import numpy as np
import pytest

from qat.errors import InputError
from qat.plan.scale import Scale


def test_without_limits_nothing_waits(make) -> None:
    calls = [(0, 5000, 1000)] * 3
    outcome = make.groq(tokens_per_minute=None).simulate(make.case(*calls))
    assert outcome.begin.tolist() == [0, 0, 0]
    assert outcome.first_token.tolist() == [0.5] * 3 and outcome.end.tolist() == [1.5] * 3
    assert [cost.amount for cost in outcome.costs] == pytest.approx([0.015 * 0.075, 0.003 * 0.30])


def test_tokens_a_minute_refill_continuously(make) -> None:
    # 4000 at once, then 66.67 a second: 1000 more after 15 s, and each next one 15 s later.
    outcome = make.groq().simulate(make.case(*[(0, 800, 200)] * 6))
    assert outcome.begin.tolist() == pytest.approx([0, 0, 0, 0, 15, 30])


def test_requests_a_day(make) -> None:
    # 2 at once, then one every 43,200 s.
    limits = {"tokens_per_minute": None, "requests_per_day": make.quote(2), "max_wait_seconds": make.quote(1e6)}
    outcome = make.groq(**limits).simulate(make.case(*[(0, 1, 1)] * 4))
    assert outcome.begin.tolist() == pytest.approx([0, 0, 43_200, 86_400])


def test_who_would_wait_too_long_is_rejected_and_not_paid(make) -> None:
    outcome = make.groq(max_wait_seconds=make.quote(20)).simulate(make.case(*[(0, 800, 200)] * 6))
    assert outcome.rejected.tolist() == [False] * 5 + [True]
    assert outcome.costs[0].quantity == pytest.approx(5 * 800 / 1e6)


def test_request_over_the_limit_is_rejected_and_holds_nobody_up(make) -> None:
    outcome = make.groq().simulate(make.case((0, 4000, 1), (1, 800, 200)))
    assert outcome.rejected.tolist() == [True, False] and outcome.begin[1] == 1


def test_a_cell_has_its_part_of_the_limit(make) -> None:
    # 4 cells: 1000 tokens and 16.67 a second each, so the second of 800 waits (600 / 16.67) = 36 s.
    outcome = make.groq().simulate(make.case(*[(0, 600, 200)] * 2, scale=Scale(cells=4)))
    assert outcome.begin.tolist() == pytest.approx([0, 36])
    assert outcome.costs[0].quantity == pytest.approx(4 * 1200 / 1e6)


def test_replicas_have_so_many_times_the_limits_and_the_same_price(make) -> None:
    # 8000 at once, then 133.33 a second: 1000 more after 7.5 s.
    outcome = make.groq(replicas=2).simulate(make.case(*[(0, 800, 200)] * 10))
    assert outcome.begin.tolist() == pytest.approx([0] * 8 + [7.5, 15])
    assert outcome.costs[0].quantity == pytest.approx(10 * 800 / 1e6)


def test_no_replica_takes_a_request_over_its_limit(make) -> None:
    assert make.groq(replicas=2).simulate(make.case((0, 4000, 1))).rejected.tolist() == [True]


def test_replicas_without_effect_are_refused(make) -> None:
    with pytest.raises(InputError, match="replicas=2 has no effect without a limit to multiply"):
        make.groq(replicas=2, tokens_per_minute=None)
    groq = make.groq(replicas=2)
    with pytest.raises(InputError, match="replicas=2 has no effect: the limits of one let every request"):
        groq.simulate(make.case(*[(0, 800, 200)] * 4))
    groq.simulate(make.case(*[(0, 800, 200)] * 5))  # the fifth would wait


def test_no_replica_at_all(make) -> None:
    with pytest.raises(InputError, match="replicas=0 must be at least 1"):
        make.groq(replicas=0)


def test_no_requests(make) -> None:
    outcome = make.groq().simulate(make.case())
    assert len(outcome.begin) == 0 and np.sum([cost.amount for cost in outcome.costs]) == 0
