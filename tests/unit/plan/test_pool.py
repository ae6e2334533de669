from __future__ import annotations

from math import factorial, inf

import numpy as np
import pytest
import simpy

from qat.plan.pool import Pool, wanted
from qat.plan.scaling import OnDemand, TowardsTarget


def run(arrival, service, policy, places=1, start=10.0, patience=inf, seconds=0.0):
    pool = Pool(
        simpy.Environment(), np.array(arrival, float), np.array(service, float), places, start, patience, policy,
        lambda _: None,
    )  # fmt: skip
    return pool.run(seconds)


def fixed(replicas: int) -> TowardsTarget:
    return TowardsTarget(replicas, replicas, replicas, 1.0, 15.0, 300.0)


def erlang_c(servers: int, load: float) -> float:
    """The probability that a request waits in M/M/c (Erlang, 1917)."""
    tail = load**servers / factorial(servers) * servers / (servers - load)
    return tail / (sum(load**k / factorial(k) for k in range(servers)) + tail)


@pytest.mark.parametrize(("replicas", "places", "load"), [(1, 4, 3.0), (4, 1, 3.0), (2, 5, 7.0)])
def test_waiting_is_that_of_an_m_m_c_queue(replicas: int, places: int, load: float) -> None:
    generator, count, servers = np.random.default_rng(7), 60_000, replicas * places
    arrival = np.cumsum(generator.exponential(1 / load, count))
    served = run(arrival, generator.exponential(1.0, count), fixed(replicas), places)
    wait = (served.begin - arrival)[count // 10 :]
    waits = erlang_c(servers, load)
    assert np.mean(wait > 1e-9) == pytest.approx(waits, rel=0.06)
    assert np.mean(wait) == pytest.approx(waits / (servers - load), rel=0.12)


def test_every_request_ends_once_and_in_order() -> None:
    generator, count = np.random.default_rng(3), 3000
    arrival = np.sort(generator.uniform(0, 1000, count))
    service = generator.exponential(4.0, count)
    served = run(arrival, service, TowardsTarget(1, 1, 3, 0.7, 15.0, 60.0), places=2, start=30.0, patience=20.0)
    assert 0 < served.rejected.sum() < count
    assert np.array_equal(np.isnan(served.begin), served.rejected)
    begin = served.begin[~served.rejected]
    assert np.all(np.diff(begin) >= 0), "first come, first served"
    wait = begin - arrival[~served.rejected]
    assert wait.min() >= 0 and wait.max() <= 20.0
    end = begin + service[~served.rejected]
    events = sorted(
        [(time, 1) for time in begin] + [(time, -1) for time in end], key=lambda event: (event[0], event[1])
    )
    running = np.cumsum([step for _, step in events])
    assert running.max() <= 3 * 2, "never more requests than places"
    assert all(replica.busy == 0 for replica in served.replicas)


def test_from_zero_and_back() -> None:
    served = run([0, 1, 100], [5, 5, 5], OnDemand(inf, 30), seconds=1000)
    # Two copies are ordered; the one of time 0 serves at 10, that of time 1 at 11. Both are gone by 46.
    assert served.begin.tolist() == [10, 11, 110]
    assert served.cold.tolist() == [True, True, True]
    assert [(copy.asked, copy.ready, copy.stopped) for copy in served.replicas] == [
        (0, 10, 45), (1, 11, 46), (100, 110, 145)
    ]  # fmt: skip


def test_warm_replica_is_not_cold() -> None:
    served = run([0, 20], [5, 5], OnDemand(inf, 30), seconds=100)
    assert served.begin.tolist() == [10, 20] and served.cold.tolist() == [True, False]
    assert [copy.stopped for copy in served.replicas] == [55], "the second call began its idle time anew"


def test_quota_holds_and_requests_wait() -> None:
    served = run([0, 0, 0], [5, 5, 5], OnDemand(1, 30), seconds=100)
    assert served.begin.tolist() == [10, 15, 20] and len(served.replicas) == 1


def test_patience_rejects_at_its_end_and_not_before() -> None:
    served = run([0, 0, 0], [5, 5, 5], OnDemand(1, 30), patience=15, seconds=100)
    assert served.rejected.tolist() == [False, False, True]
    assert run([0, 0, 0], [5, 5, 5], OnDemand(1, 30), patience=20).rejected.tolist() == [False] * 3


def test_target_scales_out_by_the_mean_load_and_in_after_its_patience() -> None:
    # 4 requests of 40 s from 0 on, one place a replica: the mean load of the first look is 4.
    policy = TowardsTarget(1, 1, 4, 1.0, every=15.0, patience=30.0)
    served = run([0, 0, 0, 0], [40] * 4, policy, start=10.0, seconds=200)
    assert served.begin.tolist() == [0, 25, 25, 25]
    assert [copy.asked for copy in served.replicas] == [0, 15, 15, 15]
    # Looks: 15 s: 4, 30 s: 4, 45 s: (25 s..40 s of four, then three) 3.67 -> 4, 60 s: 3, 75 s: (60..65 of three) 1.
    # Replicas stop 30 s after the last look that wanted them: that of 60 s still wants 3 until 105 s.
    assert [copy.stopped for copy in served.replicas] == [inf, 105, 105, 90]


def test_starting_replica_that_is_no_longer_wanted_never_serves() -> None:
    served = run([0, 0], [16, 16], TowardsTarget(1, 1, 2, 1.0, 15.0, 0.0), start=60.0, seconds=200)
    assert served.begin.tolist() == [0, 16]
    cancelled = served.replicas[1]
    assert (cancelled.asked, cancelled.ready, cancelled.stopped) == (15, inf, 45)


def test_no_requests() -> None:
    served = run([], [], OnDemand(inf, 30), seconds=100)
    assert len(served.begin) == 0 and served.replicas == []


@pytest.mark.parametrize(
    ("load", "places", "replicas"), [(0, 2, 0), (0.1, 2, 1), (2, 2, 1), (2.1, 2, 2), (2.1, 0.7, 3)]
)
def test_wanted(load: float, places: float, replicas: int) -> None:
    assert wanted(load, places) == replicas
