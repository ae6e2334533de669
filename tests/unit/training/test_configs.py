"""The shipped configs of this layer name every option of their target, with its default value."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml

from qat.config.check import locate
from qat.config.schema import COMPONENTS
from qat.paths import configs_dir

GROUPS = ("loss", "optimizer", "trainer", "logger")
FILES = [file for group in GROUPS for file in sorted((configs_dir() / group).glob("*.yaml"))]
GIVEN = {"run_dir"}  # comes from the run


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
def test_options_and_defaults_are_those_of_the_target(file: Any) -> None:
    text = file.read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    target = locate(file.parent.name, node.pop("_target_"), COMPONENTS[file.parent.name])
    parameters = inspect.signature(target).parameters
    assert text.startswith("# ")
    assert node.keys() == parameters.keys() - GIVEN
    for name, value in node.items():
        default = parameters[name].default
        if default is not inspect.Parameter.empty:
            assert value == (list(default) if isinstance(default, tuple) else default), name
