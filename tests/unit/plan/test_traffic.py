from __future__ import annotations

import numpy as np
import pytest

from qat.errors import InputError
from qat.plan.requests import DAY, Lengths
from qat.plan.traffic.bursty import Bursty
from qat.plan.traffic.daily import Daily
from qat.plan.traffic.poisson import Poisson

PROMPT, OUTPUT = Lengths(median=400, spread=0.8, maximum=4096), Lengths(median=200, spread=0.6, maximum=1024)
LENGTHS = {"prompt": PROMPT, "output": OUTPUT}
CURVE = (1.0,) * 12 + (3.0,) * 12


def daily(**options) -> Daily:
    return Daily(**{"users": 10_000, "requests_per_user": 4.0, "curve": CURVE} | LENGTHS | options)


def test_lengths_have_their_median_spread_and_maximum() -> None:
    drawn = PROMPT.sample(100_000, np.random.default_rng(0), "traffic.prompt")
    assert np.median(drawn) == pytest.approx(400, rel=0.02)
    # One standard deviation above the median: 400 · e^0.8 = 890.2
    assert np.quantile(drawn, 0.8413) == pytest.approx(890.2, rel=0.02)
    assert drawn.max() == 4096 and drawn.min() >= 1
    assert set(Lengths(median=7, maximum=7).sample(5, np.random.default_rng(0), "traffic.prompt").tolist()) == {7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"median": 9, "maximum": 8}, "^traffic.output.median=9 must be at most traffic.output.maximum=8$"),
        ({"median": 1, "maximum": 8, "spread": -0.1}, "^traffic.output.spread=-0.1 must be at least 0$"),
    ],
)
def test_impossible_lengths(options, message: str) -> None:
    traffic = Poisson(requests_per_second=0.5, prompt=PROMPT, output=Lengths(**options))
    with pytest.raises(InputError, match=message):
        traffic.requests(DAY, 1.0, seed=0)


def test_poisson_counts_and_gaps() -> None:
    traffic = Poisson(requests_per_second=0.5, **LENGTHS)
    requests = traffic.requests(DAY, 1.0, seed=0)
    assert traffic.expected(DAY, 0) == 43_200
    assert abs(len(requests) - 43_200) < 4 * 43_200**0.5
    gaps = np.diff(requests.arrival)
    assert gaps.mean() == pytest.approx(2.0, rel=0.02) and gaps.std() == pytest.approx(2.0, rel=0.03)
    assert np.all(gaps >= 0) and requests.arrival[0] >= 0 and requests.arrival[-1] < DAY


def test_daily_follows_its_curve_every_day() -> None:
    traffic = daily()
    requests = traffic.requests(2 * DAY, 1.0, seed=0)
    assert traffic.expected(2 * DAY, 0) == pytest.approx(80_000)
    halves = np.histogram(requests.arrival, np.arange(5) * DAY / 2)[0]
    assert halves == pytest.approx([10_000, 30_000, 10_000, 30_000], rel=0.04)


def test_part_of_a_day() -> None:
    # A night hour has 1 / 48 of 40,000 requests.
    assert daily().expected(1.5 * 3600, 0) == pytest.approx(1.5 * 40_000 / 48)
    assert daily().requests(1.5 * 3600, 1.0, 0).arrival.max() < 1.5 * 3600


def test_bursts_are_where_they_are_for_every_share() -> None:
    traffic = Bursty(
        calm_requests_per_second=0.1, burst_requests_per_second=20.0, mean_calm_seconds=2000.0,
        mean_burst_seconds=200.0, **LENGTHS,
    )  # fmt: skip
    edges, rates = traffic.steps(DAY, 0)
    assert edges[0] == 0 and edges[-1] == DAY and set(rates.tolist()) == {0.1, 20.0}
    whole, part = (traffic.requests(DAY, share, 0) for share in (1.0, 0.1))
    for requests, share in ((whole, 1.0), (part, 0.1)):
        expected = np.diff(edges) * rates * share
        counts = np.histogram(requests.arrival, edges)[0]
        assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected) + 3)
    gaps = np.diff(whole.arrival)
    assert gaps.std() > 2 * gaps.mean(), "more uneven than Poisson, whose gaps have a deviation of their mean"


@pytest.mark.parametrize("traffic", [daily(), Poisson(requests_per_second=0.2, **LENGTHS)])
def test_same_seed_same_requests(traffic) -> None:
    first, again, other = (traffic.requests(DAY, 0.5, seed) for seed in (1, 1, 2))
    for name in ("arrival", "prompt", "output"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.arrival[:10], other.arrival[:10])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(requests_per_second=0.0, **LENGTHS), "^traffic.requests_per_second=0.0 must be a positive"),
        (lambda: daily(users=-1), "^traffic.users=-1 must be a positive"),
        (lambda: daily(curve=(1.0,) * 23), "^traffic.curve=.* must be 24 weights"),
        (lambda: daily(curve=(0.0,) * 24), "not all 0"),
        (lambda: daily(curve=(-1.0,) + (1.0,) * 23), "at least 0"),
        (
            lambda: Bursty(
                calm_requests_per_second=2.0,
                burst_requests_per_second=1.0,
                mean_calm_seconds=1.0,
                mean_burst_seconds=1.0,
                **LENGTHS,
            ),
            "^traffic.burst_requests_per_second=1.0 must be above traffic.calm",
        ),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
