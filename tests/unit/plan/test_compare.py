from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.plan.compare import compare
from qat.plan.requests import Lengths
from qat.plan.traffic.daily import Daily
from qat.plan.traffic.poisson import Poisson

LENGTHS = {
    "prompt": Lengths(median=200, spread=0.5, maximum=1000),
    "output": Lengths(median=100, spread=0.5, maximum=500),
}
STEADY = Poisson(requests_per_second=30.0, **LENGTHS)


def plan(make, hosting, traffic=STEADY, days=0.02, **options):
    return compare(make.facts, traffic, {"host": hosting}, days, **options).rows[0]


def big(make, kind: str, places: int = 8):
    """Hostings of which the traffic, 120 requests at a time, keeps 15 replicas of 8 places busy."""
    if kind == "fleet":
        speeds = {"float": make.speed(concurrency=places)}
        return make.fleet(speeds=speeds, max_replicas=1000, max_wait_seconds=make.quote(60))
    if kind == "bedrock":
        return make.bedrock(speed=make.speed(concurrency=places))
    return make.groq(tokens_per_minute=make.quote(500_000))


@pytest.mark.parametrize("kind", ["bedrock", "fleet", "groq"])
@pytest.mark.parametrize("cells", [2, 4])
def test_splitting_the_traffic_into_cells_changes_little(make, kind: str, cells: int) -> None:
    whole = plan(make, big(make, kind))
    split = plan(make, big(make, kind), max_requests=30 * 1728 // cells)
    assert (whole.cells, whole.grain) == (1, 1) and (split.cells, split.grain) == (cells, 1)
    assert split.simulated == pytest.approx(whole.simulated / cells, rel=0.05)
    # Smaller pools round up to whole replicas and even out less; tokens cost the same.
    assert 0.98 < split.cost_per_day / whole.cost_per_day < (1.02 if kind == "groq" else 1.2)
    assert split.latency.p50 == pytest.approx(whole.latency.p50, rel=0.05)
    assert split.rejected_share == pytest.approx(whole.rejected_share, abs=0.02)


def test_grain_changes_little_and_does_not_round_up(make) -> None:
    whole = plan(make, big(make, "fleet", 32))
    split = plan(make, big(make, "fleet", 32), max_requests=30 * 1728 // 4)
    assert (split.cells, split.grain) == (1, 4)
    assert split.cost_per_day == pytest.approx(whole.cost_per_day, rel=0.15)
    assert split.latency.p50 == pytest.approx(whole.latency.p50, rel=0.05)


def test_millions_of_users_cost_in_proportion(make) -> None:
    def day(users: int):
        curve = (1.0,) * 12 + (2.0,) * 12
        traffic = Daily(users=users, requests_per_user=10.0, curve=curve, **LENGTHS)
        return plan(make, big(make, "fleet"), traffic, days=1.0, max_requests=50_000)

    one, ten = day(1_000_000), day(10_000_000)
    assert ten.simulated < 60_000 and ten.cells * ten.grain >= 1000
    assert ten.cost_per_day == pytest.approx(10 * one.cost_per_day, rel=0.1)


def test_same_seed_same_plan(make) -> None:
    hostings = {"bedrock": make.bedrock(), "fleet": make.fleet(), "groq": make.groq()}
    traffic = Poisson(requests_per_second=0.1, **LENGTHS)
    first, again, other = (compare(make.facts, traffic, hostings, 0.2, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first.rows != other.rows


def test_shares_and_costs_agree(make) -> None:
    hosting = make.fleet(max_replicas=1, max_wait_seconds=make.quote(5), min_replicas=1)
    row = plan(make, hosting, Poisson(requests_per_second=0.7, **LENGTHS), late_after=3.0, days=0.1)
    assert 0 < row.rejected_share < 1 and 0 < row.late_share < 1 - row.rejected_share
    assert row.cost_per_day == pytest.approx(0.70 * 24)
    assert 1 / row.per_million.total == pytest.approx(1 / row.per_million.prompt + 1 / row.per_million.output)


def test_precisions_that_differ_are_simulated_and_others_refused(make) -> None:
    fleet = make.fleet(speeds={"float": make.speed(output=30), "int4": make.speed(output=90)})
    rows = compare(make.facts, Poisson(requests_per_second=0.1, **LENGTHS), {"fleet": fleet}, 0.1).rows
    assert [row.status for row in rows] == ["simulated", "refused", "simulated"]
    assert rows[2].latency.p50 < rows[0].latency.p50
    assert rows[1].cost_per_day is None and rows[1].note == "the pricing states no speed at this precision"


def test_progress_rises_to_one(make) -> None:
    told: list[tuple[str, float]] = []
    traffic = Poisson(requests_per_second=0.1, **LENGTHS)
    compare(make.facts, traffic, {"a": make.fleet(), "b": make.groq()}, 0.1, progress=lambda *now: told.append(now))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 100
    assert told[0][0] == "a at float" and any(what == "b at float" for what, _ in told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"days": 0.0}, "days=0.0 must be a positive number"),
        ({"late_after": float("nan")}, "late_after=nan"),
        ({"max_requests": 0}, "^max_requests=0 must be at least 1$"),
        ({"seed": -1}, "^seed=-1 must be at least 0$"),
    ],
)
def test_refused(make, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(make.facts, STEADY, {"groq": make.groq()}, **options)


def test_nothing_to_compare(make) -> None:
    with pytest.raises(InputError, match="no pricing to compare"):
        compare(make.facts, STEADY, {})
    with pytest.raises(InputError, match="EUR, USD; compare prices of one currency"):
        compare(make.facts, STEADY, {"a": make.groq(), "b": make.fleet(currency="EUR")})
    with pytest.raises(InputError, match="no request in 1 days with seed=0"):
        compare(make.facts, Poisson(requests_per_second=1e-9, **LENGTHS), {"a": make.groq()})
