"""The example of docs/plan.md, worked out there by hand, to the cent."""

from __future__ import annotations

import pytest

from qat.plan.compare import compare
from qat.plan.traffic.trace import Trace


@pytest.fixture
def plan(make):
    hostings = {"bedrock": make.bedrock(), "groq": make.groq(), "fleet": make.fleet()}
    return compare(make.facts, Trace(file=str(make.example)), hostings)


def row(plan, hosting: str, precision: str = "float"):
    return next(row for row in plan.rows if (row.hosting, row.precision) == (hosting, precision))


def test_bedrock(plan) -> None:
    found = row(plan, "bedrock")
    windows, storage = found.costs
    assert windows.name == "8 windows of running copies" and windows.quantity == 80
    assert round(windows.amount, 4) == 4.5744
    assert round(storage.amount, 4) == 0.1282
    assert round(found.cost_per_day, 2) == 4.70
    assert found.cold_start_share == pytest.approx(5 / 6)
    assert found.late_share == pytest.approx(5 / 6) and found.rejected_share == 0
    assert found.latency_quantiles[0] == pytest.approx(11.0)
    assert found.latency_quantiles[100] == pytest.approx(81.0)
    assert found.per_million.total == pytest.approx(4.702619 / 0.00905, rel=1e-6)
    assert found.replicas.peak == 2


def test_groq(plan) -> None:
    found = row(plan, "groq")
    assert [cost.amount for cost in found.costs] == pytest.approx([0.0004875, 0.000765])
    assert found.cost_per_day == pytest.approx(0.0012525)
    assert found.latency_quantiles[100] == pytest.approx(7.5 + 0.2 + 0.3)
    assert found.rejected_share == 0 and found.replicas is None


def test_fleet(plan) -> None:
    found = row(plan, "fleet")
    (instances,) = found.costs
    assert instances.quantity == pytest.approx(24.0875)
    assert round(found.cost_per_day, 2) == 16.86
    assert found.cold_start_share == 0
    # The third request waits from 15 to 21, then takes 12 s.
    assert found.latency_quantiles[0] == pytest.approx(5.5)
    assert found.time_to_first_token.p99 == pytest.approx(8.0 - 0.05 * 7.0)
    assert found.replicas.mean == pytest.approx((86_400 + 345 - 90) / 86_400)


def test_precisions(plan) -> None:
    for hosting in ("bedrock", "groq"):
        assert {row(plan, hosting, name).cost_per_day for name in ("float", "int8", "int4")} == {
            row(plan, hosting).cost_per_day
        }
    assert "saves nothing here" in row(plan, "bedrock", "int4").note
    assert "does not host these weights" in row(plan, "groq").note
    assert row(plan, "fleet", "int4").status == "refused"
