"""Each YAML in configs/data names a source and lists all of its options with their defaults."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

from qat import paths

CONFIGS = sorted((paths.configs_dir() / "data").glob("*.yaml"))


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"python_stdlib", "text", "jsonl", "hf"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_options_are_the_targets_arguments(path: Path) -> None:
    text = path.read_text()
    config = yaml.safe_load(text)
    module, _, name = config.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    arguments = inspect.signature(target).parameters
    assert list(config) == list(arguments)
    for option, argument in arguments.items():
        if argument.default not in (None, inspect.Parameter.empty):
            assert config[option] == argument.default
    for method in ("documents", "fingerprint", "describe"):
        assert callable(getattr(target, method))
    assert text.startswith("# ")
