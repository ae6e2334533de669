"""Small hostings whose numbers are easy to follow by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qat.plan.facts import ModelFacts
from qat.plan.hosting.base import Case
from qat.plan.hosting.bedrock import Bedrock
from qat.plan.hosting.fleet import Fleet
from qat.plan.hosting.groq import Groq
from qat.plan.requests import Requests
from qat.plan.scale import Scale
from qat.plan.sourced import Quote, Speed

EXAMPLE = Path(__file__).parents[3] / "docs" / "plan_example.csv"


def quote(value: float, assumed: bool = False) -> Quote:
    return Quote(value=value, source="a test", date="2026-11-01", assumed=assumed)


def speed(prompt: float = 1000, output: float = 30, concurrency: int = 2) -> Speed:
    return Speed(
        prompt_tokens_per_second=prompt,
        output_tokens_per_second=output,
        concurrency=concurrency,
        source="a test",
        date="2026-11-01",
    )


class Make:
    """Hostings as in the example of docs/plan.md, with options changed at will."""

    quote, speed = staticmethod(quote), staticmethod(speed)
    example = EXAMPLE
    facts = ModelFacts(name="m", parameters=10**9, bytes={"float": 2 * 10**9, "int8": 10**9, "int4": 56 * 10**7})

    def bedrock(self, **options: Any) -> Bedrock:
        given = {
            "currency": "USD", "custom_model_units": quote(2), "unit_minute": quote(0.05718),
            "unit_month_storage": quote(1.95), "window_seconds": quote(300), "idle_seconds": quote(300),
            "start_seconds": quote(60), "max_wait_seconds": quote(600), "max_copies": None, "speed": speed(),
        }  # fmt: skip
        return Bedrock(**given | options)

    def groq(self, **options: Any) -> Groq:
        given = {
            "currency": "USD", "base_model": "base", "prompt_million": quote(0.075), "output_million": quote(0.30),
            "requests_per_day": None, "tokens_per_minute": quote(4000), "max_wait_seconds": quote(60),
            "speed": speed(10_000, 1000),
        }  # fmt: skip
        return Groq(**given | options)

    def fleet(self, **options: Any) -> Fleet:
        given = {
            "currency": "USD", "instance_hour": quote(0.70), "memory_gib": quote(24), "usable_memory": 0.9,
            "speeds": {"float": speed()}, "start_seconds": quote(60), "max_wait_seconds": quote(600),
            "min_replicas": 1, "max_replicas": 2, "target_load": 0.7, "look_seconds": 15.0, "scale_in_seconds": 300.0,
        }  # fmt: skip
        return Fleet(**given | options)

    def case(self, *rows: tuple[float, int, int], seconds: float = 86_400.0, places: int = 2, **options: Any) -> Case:
        arrival, prompt, output = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        requests = Requests(np.array(arrival, float), np.array(prompt, int), np.array(output, int))
        given = {"facts": self.facts, "precision": "float", "scale": Scale()} | options
        return Case(requests=requests, places=places, seconds=seconds, advance=lambda _: None, **given)


@pytest.fixture
def make() -> Make:
    return Make()
