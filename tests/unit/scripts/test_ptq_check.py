"""What scripts/ptq_check.py says of losses, and what it asks llmcompressor for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from qat import grid
from qat.config.check import instantiate
from qat.config.compose import component
from qat.observers import GridSpec

SCRIPT = Path(__file__).parents[3] / "scripts" / "ptq_check.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ptq_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ptq_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows(script: ModuleType, *losses: tuple[float | None, float | None]) -> list[Any]:
    same = {"model": "m", "scheme": "W4 channel", "method": "GPTQ", "observer": "mse", "float_loss": 1.0}
    return [script.Row(**same, draw=draw, theirs=theirs, ours=ours) for draw, (theirs, ours) in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([(2.0, 2.1), (2.0, 1.9), (2.0, 2.0)], "within noise"),
        ([(2.0, 2.1), (2.2, 2.3), (2.1, 2.21)], "worse"),  # each draw by as much, however much the draws differ
        ([(2.0, 1.9), (2.2, 2.1), (2.1, 1.99)], "better"),
        ([(2.0, 2.5)], ""),  # one draw says nothing about the noise
        ([(2.0, None), (None, 2.5)], ""),
    ],
)
def test_the_verdict_is_of_paired_differences(script: ModuleType, losses: list[Any], verdict: str) -> None:
    [compared] = script.compare(rows(script, *losses))
    assert compared.verdict == verdict


def test_the_table_has_means_and_the_noise(script: ModuleType) -> None:
    [compared] = script.compare(rows(script, (2.0, 2.1), (2.2, 2.2), (9.0, None)))  # the last draw has one side only
    # differences 0.1 and 0.0: their standard deviation is 0.0707, the standard error of the mean 0.05
    assert script.table_line(compared) == (
        "| m | W4 channel | GPTQ | mse | 2 | 1.0000 | 2.1000 | 2.1500 | +0.0500 | 0.1000 | within noise |"
    )


def test_every_method_of_ours_is_there(script: ModuleType) -> None:
    for method in script.METHODS:
        assert instantiate(component("ptq", method.config) | method.ours, "ptq")


def test_the_ranges_of_min_max_are_llmcompressors(script: ModuleType) -> None:
    spec = GridSpec(4, True, grid.scale_format("fp32", 4, symmetric=True))
    lower, upper = script.OBSERVERS["minmax"].range(torch.tensor([[[-7.5, 3.0]]]), spec)
    assert (lower.item(), upper.item()) == (-7.0, 7.0)  # a scale of 1
