"""The shared battery: every YAML of a group is found by globbing, so a new component is tested by existing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from support import random_llama
from transformers import LlamaForCausalLM

from qat.config.check import instantiate
from qat.paths import configs_dir


def names(group: str) -> list[str]:
    """Stems of ``configs/<group>/*.yaml``."""
    found = sorted(path.stem for path in (configs_dir() / group).glob("*.yaml"))
    assert found, f"configs/{group} is empty"
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``<group>_name`` runs once for each config of the group."""
    for group in ("scheme", "fake_quantizer", "observer", "phase", "ptq", "export", "loss"):
        if f"{group}_name" in metafunc.fixturenames:
            metafunc.parametrize(f"{group}_name", names(group))


@pytest.fixture
def build() -> Callable[..., Any]:
    """``build("scheme", "w8a8", **options)`` makes the component exactly as a run does."""

    def make(group: str, name: str, **options: Any) -> Any:
        node = yaml.safe_load((configs_dir() / group / f"{name}.yaml").read_text())
        key = {"phase": "schedule.main", "export": f"export.{name}"}.get(group, group)
        return instantiate(node | options, key)

    return make


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A tiny Llama that groups of 32 and 128 divide."""
    return random_llama(hidden_size=128, intermediate_size=256)
