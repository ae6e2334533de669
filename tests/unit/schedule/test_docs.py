"""The examples of docs/schedules.md do what the page says."""

from __future__ import annotations

import importlib
import io
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from qat.errors import InputError
from qat.paths import configs_dir
from qat.schedule import Phase, PrecisionSchedule
from qat.schedule.phases.blend import Blend
from qat.schedule.phases.cooldown import Cooldown
from qat.schedule.phases.float_warmup import FloatWarmup
from qat.schedule.phases.progressive_bits import ProgressiveBits

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "schedules.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def block(word: str) -> str:
    """The first code block with ``word`` in it."""
    found: str = next(text for text in BLOCKS if word in text)
    return found


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_the_recipe_gives_the_table() -> None:
    recipe = yaml.safe_load(block("defaults:"))
    phases: dict[str, Phase] = {}
    for default in recipe["defaults"]:
        ((place, kind),) = default.items()
        name = place.removeprefix("/phase@schedule.")
        options = yaml.safe_load((configs_dir() / "phase" / f"{kind}.yaml").read_text(encoding="utf-8"))
        module, _, target = options.pop("_target_").rpartition(".")
        options |= recipe["schedule"].get(name, {})
        phases[name] = getattr(importlib.import_module(module), target)(**options)
    schedule = PrecisionSchedule(phases, recipe["trainer"]["max_steps"])
    schedule.check(scheme_bits=4)
    text = io.StringIO()
    Console(width=80, file=text).print(schedule.table())
    assert words(text.getvalue()) == words(block("Precision schedule"))


def test_the_error_has_the_words_of_the_page() -> None:
    with pytest.raises(InputError) as error:
        PrecisionSchedule({"warmup": FloatWarmup(share=0.3), "end": Cooldown(steps=80)}, 100)
    assert str(error.value).split() == block("do not fit").split()


def test_the_worked_steps() -> None:
    rows = {cells[0]: cells[1:] for line in PAGE.splitlines() if (cells := re.findall(r"\| ([^|]+?) (?=\|)", line))}
    progress = [(k + 1) / 6 for k in range(6)]
    bits, blend = ProgressiveBits(bits=(8, 6, 4)), Blend()
    assert rows["local step"] == [str(k) for k in range(6)]
    assert rows["bits"] == [str(bits.state(p).weight_bits) for p in progress]
    assert rows["mix"] == [f"{blend.state(p).mix:.3g}" for p in progress]


def test_the_python_example() -> None:
    names: dict[str, PrecisionSchedule] = {}
    exec(block("import PrecisionSchedule"), names)
    schedule = names["schedule"]
    assert (schedule.state_at(9).weights, schedule.state_at(10).weights) == (False, True)
