"""The shared battery: every YAML of a group is found by globbing, so a new component is tested by existing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import random_llama
from transformers import LlamaForCausalLM

from qat.config.check import instantiate
from qat.config.compose import choices
from qat.config.compose import component as shipped
from qat.hosts import range_parameters
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.scheme import Scheme

TOKENS = 1024
"""Size of the embedded tokenizer."""


def names(group: str) -> list[str]:
    """Every config of ``configs/<group>``."""
    found = [*choices(group)]
    assert found, f"configs/{group} is empty"
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``<group>_name`` runs once for each config of the group."""
    for group in ("scheme", "fake_quantizer", "observer", "phase", "ptq", "export", "loss"):
        if f"{group}_name" in metafunc.fixturenames:
            metafunc.parametrize(f"{group}_name", names(group))


def built(group: str, name: str, **options: Any) -> Any:
    node = shipped(group, name)
    key = {"phase": "schedule.main", "export": f"export.{name}"}.get(group, group)
    return instantiate(node | options, key)


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """``build("scheme", "w8a8", **options)`` makes the component exactly as a run does."""
    return built


def small_llama() -> LlamaForCausalLM:
    return random_llama(hidden_size=128, intermediate_size=256, vocab_size=TOKENS)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A tiny Llama that groups of 32 and 128 divide, with the vocabulary of the embedded tokenizer."""
    return small_llama()


@pytest.fixture(scope="session")
def trained() -> Callable[..., LlamaForCausalLM]:
    """``trained(scheme, "lsq")``: calibrated and moved by two optimizer steps, so that nothing is where it started."""

    def make(scheme: Scheme, fake_quantizer: str = "lsq") -> LlamaForCausalLM:
        model, observer = small_llama(), built("observer", "mse")
        tokens = torch.randint(TOKENS, (2, 16), generator=torch.Generator().manual_seed(1))
        prepare(model, scheme, built("fake_quantizer", fake_quantizer), observer)
        calibrate(model, [{"input_ids": tokens}], observer)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            model(tokens, labels=tokens).loss.backward()
            for name, parameter in range_parameters(model):
                assert parameter.grad.abs().sum() > 0, f"{name} is not trained"
            optimizer.step()
            optimizer.zero_grad()
        return model

    return make
