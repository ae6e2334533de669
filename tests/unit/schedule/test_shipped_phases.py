"""Every phase of configs/phase: its YAML names its options, and the phase keeps what a schedule relies on."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import yaml

from qat.paths import configs_dir
from qat.schedule import Phase, PrecisionSchedule
from qat.schedule.phases.fake_quant import FakeQuant

CONFIGS = sorted((configs_dir() / "phase").glob("*.yaml"))
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def load(path: Path) -> tuple[type[Phase], dict[str, object]]:
    options = yaml.safe_load(path.read_text())
    module, _, name = options.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name), options


def test_there_are_phases() -> None:
    assert {"float_warmup", "calibrate", "fake_quant", "cooldown"} <= {path.stem for path in CONFIGS}


@each
def test_the_yaml_has_exactly_the_options_of_the_class(path: Path) -> None:
    target, options = load(path)
    assert set(options) == {field.name for field in dataclasses.fields(target)}
    assert path.read_text().startswith("# ")


@each
def test_the_yaml_shows_the_defaults_of_the_class(path: Path) -> None:
    target, options = load(path)
    defaults = {field.name: field.default for field in dataclasses.fields(target)}
    assert {name: value for name, value in options.items() if defaults[name] not in (value, dataclasses.MISSING)} == {}


@each
def test_the_kind_is_the_file_name(path: Path) -> None:
    target, options = load(path)
    assert target(**options).kind == path.stem  # type: ignore[arg-type]


@each
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_it_works_in_a_schedule_of_any_length(path: Path, steps: int) -> None:
    target, options = load(path)
    phase = target(**options | {"steps": steps})  # type: ignore[arg-type]
    schedule = PrecisionSchedule({"it": phase, "main": FakeQuant()}, total_steps=steps + 3)
    states = [schedule.state_at(step) for step in range(steps)]
    assert states == [schedule.state_at(step) for step in reversed(range(steps))][::-1]
    assert {state.phase for state in states} == {"it"}
    assert states[-1] == dataclasses.replace(phase.state(1.0), phase="it")
    assert [row.last_step for row in schedule.rows()][-2:] == [steps - 1, steps + 2]
    json.dumps(schedule.to_dict())
    schedule.check(scheme_bits=4)
