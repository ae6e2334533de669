"""What is shipped: every traffic and every pricing can be built and planned with, and names its sources."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from qat.config.check import instantiate
from qat.errors import InputError
from qat.paths import configs_dir
from qat.plan.compare import compare
from qat.plan.facts import ModelFacts
from qat.plan.sourced import Quote

PRICINGS = sorted(path.stem for path in (configs_dir() / "pricing").glob("*.yaml"))
TRAFFICS = sorted(path.stem for path in (configs_dir() / "traffic").glob("*.yaml"))
FACTS = ModelFacts.of_parameters("8b", 8_000_000_000)


def build(group: str, name: str, **options: Any) -> Any:
    node = yaml.safe_load((configs_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return instantiate(node | options, group if group == "traffic" else f"{group}.{name}")


def test_there_are_some() -> None:
    assert {"poisson", "daily", "bursty", "trace"} <= {*TRAFFICS}
    assert {"bedrock_us_east_1", "groq", "vllm_l4"} <= {*PRICINGS}


@pytest.mark.parametrize("name", PRICINGS)
def test_pricing_plans_and_says_what_it_rests_on(name: str) -> None:
    hosting = build("pricing", name)
    plan = compare(FACTS, build("traffic", "daily", users=20), {name: hosting})
    assert all(row.cost_per_day > 0 for row in plan.rows)
    for item in plan.inputs[name]:
        assert item.source and item.date.startswith("20")
        assert item.assumed or "replace" not in item.source


@pytest.mark.parametrize("name", TRAFFICS)
def test_traffic_gives_requests(make, name: str) -> None:
    traffic = build("traffic", name, **({"file": str(make.example)} if name == "trace" else {}))
    assert len(traffic.requests(86_400.0, 0.2, 0)) > 0


def test_shipped_prices_of_bedrock() -> None:
    bedrock = build("pricing", "bedrock_us_east_1")
    assert (bedrock.unit_minute.value, bedrock.unit_month_storage.value) == (0.05718, 1.95)
    assert not bedrock.unit_minute.assumed and bedrock.custom_model_units.assumed


@pytest.mark.parametrize("options", [{"date": "last week"}, {"source": ""}, {"value": -1}, {"when": "2026"}])
def test_a_number_needs_source_and_date(options) -> None:
    with pytest.raises(ValidationError):
        Quote(**{"value": 1.0, "source": "x", "date": "2026"} | options)
    with pytest.raises(InputError, match="pricing.groq.prompt_million"):
        build("pricing", "groq", prompt_million={"value": 1.0, "source": "x", "date": "2026"} | options)


def test_bytes_of_a_model_that_is_not_there_yet() -> None:
    assert FACTS.bytes == {"float": 16_000_000_000, "int8": 8_000_000_000, "int4": 4_500_000_000}
