from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.plan.facts import ModelFacts
from qat.plan.hosting.fleet import GIB
from qat.plan.scale import Scale

BIG = ModelFacts(name="big", parameters=12 * GIB, bytes={"float": 24 * GIB, "int8": 12 * GIB, "int4": 6 * GIB})


def test_what_fits(make) -> None:
    # 24 GiB, of which 0.9 are usable: 21.6 GiB.
    fleet = make.fleet(speeds={"float": make.speed(), "int8": make.speed()})
    assert "does not fit: 24.0 GiB of weights" in fleet.refusal(BIG, "float", 600)
    assert fleet.refusal(BIG, "int8", 600) is None
    assert fleet.refusal(BIG, "int4", 600) == "the pricing states no speed at this precision"
    small = ModelFacts(name="m", parameters=1, bytes={"float": 2})
    assert fleet.refusal(small, "int8", 600) == "the size of the weights at this precision is not known"


def test_memory_that_smaller_weights_leave_holds_more_requests(make) -> None:
    speeds = dict.fromkeys(("int8", "int4"), make.speed(concurrency=256))
    facts = BIG.model_copy(update={"kv_bytes_per_token": 2**20})  # 1 GiB for a request of 1024 tokens
    assert make.fleet(speeds=speeds).places(facts, "int8", 1024) == 9  # 21.6 - 12
    assert make.fleet(speeds=speeds).places(facts, "int4", 1024) == 15  # 21.6 - 6
    assert make.fleet(speeds={"int4": make.speed(concurrency=4)}).places(facts, "int4", 1024) == 4
    assert make.fleet(speeds=speeds).places(facts, "int8", 10 * 1024) == 0
    assert "keys and values of one request" in make.fleet(speeds=speeds).refusal(facts, "int8", 10 * 1024)


def test_minimum_runs_all_day(make) -> None:
    outcome = make.fleet(min_replicas=3, max_replicas=3).simulate(make.case(seconds=3600.0))
    assert outcome.costs[0].amount == pytest.approx(3 * 0.70)


def test_begins_with_what_its_first_minutes_keep_busy(make) -> None:
    # 70 requests of 12 s in 300 s: 2.8 at a time; 2 places at 70 % hold 1.4 a replica, so 2 replicas.
    calls = [(number * 300 / 70, 1000, 330) for number in range(70)]
    outcome = make.fleet(max_replicas=9).simulate(make.case(*calls))
    assert outcome.changes[outcome.changes[:, 0] == 0, 1].sum() == 2


def test_bounds_are_those_of_all_cells(make) -> None:
    calls = [(float(number), 1000, 3000) for number in range(100)]
    outcome = make.fleet(min_replicas=4, max_replicas=12, max_wait_seconds=make.quote(1e6)).simulate(
        make.case(*calls, scale=Scale(cells=4), seconds=1000.0)
    )
    running = outcome.changes[:, 1].cumsum()
    assert running.min() >= 4 and running.max() == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas=3 and max_replicas=2"),
        ({"min_replicas": 0, "max_replicas": 0}, "second at least 1"),
        ({"target_load": 1.5}, "target_load=1.5 must be above 0 and at most 1"),
        ({"usable_memory": 0.0}, "usable_memory=0.0"),
        ({"look_seconds": 0.0}, "look_seconds=0.0 must be above 0"),
        ({"speeds": {}}, "at least one precision"),
    ],
)
def test_refused_options(make, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make.fleet(**options)


def test_small_weights_are_told_in_megabytes(make) -> None:
    fleet = make.fleet()
    assert fleet.note(make.facts, "int4") == "560 MB of weights"
    assert fleet.note(make.facts, "float") == "1.86 GiB of weights"
