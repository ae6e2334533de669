"""Every YAML of ``configs/engine``: it names its engine, with the options and defaults that this really has."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from qat.config.check import locate
from qat.engines.base import Engine
from qat.engines.isolated import Isolated, build
from qat.paths import configs_dir

ENGINES = sorted((configs_dir() / "engine").glob("*.yaml"))
FORMATS = {path.stem for path in (configs_dir() / "export").glob("*.yaml")}


@pytest.fixture(params=ENGINES, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> dict:
    path: Path = request.param
    return yaml.safe_load(path.read_text())


def test_options_are_those_of_the_engine(config: dict) -> None:
    target = locate("engine", config["_target_"], "qat.engines")
    parameters = inspect.signature(target).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        name: value for name, value in config.items() if name != "_target_"
    }


def test_an_engine_is_known_before_it_is_loaded(config: dict) -> None:
    engine, isolated = build(config), Isolated(config)
    assert isinstance(engine, Engine)
    assert engine.formats and engine.formats <= FORMATS, "a format is named as its config"
    assert (isolated.formats, isolated.normalised) == (engine.formats, engine.normalised)
    assert isolated.missing() == engine.missing()
    assert engine.missing() is None or isinstance(engine.missing(), str)


def test_every_format_has_an_engine() -> None:
    assert len(ENGINES) >= 7
    loaded = set().union(*(build(yaml.safe_load(path.read_text())).formats for path in ENGINES))
    assert loaded == FORMATS
