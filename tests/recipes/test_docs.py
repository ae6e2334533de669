"""docs/recipes.md: its recipe composes, and so does every command in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from qat.cli.arguments import Arguments
from qat.cli.commands import commands
from qat.config.check import check, instantiate
from qat.config.compose import compose
from qat.config.explain import explain
from qat.errors import InputError
from qat.jobs.stages.quantization import schedule_of

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


def write_recipe(folder: Path) -> Path:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (folder / "mine").mkdir()
    (folder / "mine" / "w4a16.yaml").write_text(text)
    return folder


def test_the_recipe_on_the_page_works(tmp_path: Path) -> None:
    run = check(compose(["recipe=mine/w4a16"], write_recipe(tmp_path)))
    schedule = schedule_of(run, instantiate(run.scheme, "scheme"))
    assert list(schedule.phases) == ["warmup", "lower_bits", "main"]
    assert schedule.state_at(19).phase == "warmup"
    assert schedule.state_at(499).weight_bits is None


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_on_the_page_composes(line: str, tmp_path: Path) -> None:
    program, command, *words = shlex.split(line, comments=True)
    assert program == "qat"
    assert command in commands()
    if any(word.startswith("resume=") for word in words):
        with pytest.raises(InputError, match="is not a run folder"):
            Arguments.parse("run", words)
        return
    words = [word for word in words if word not in ("--cfg", "job", "--multirun", "--recipes", "recipes_of_mine")]
    check(compose([word.partition(",")[0] if "lr=" in word else word for word in words], write_recipe(tmp_path)))


def test_the_mistakes_on_the_page_are_told_like_this() -> None:
    for override in ("recipe=demo/w4a16_lsqq", "trainer.max_stepz=5", "trainer.precision=fp32"):
        with pytest.raises(Exception, match=".") as caught:
            check(compose([override]))
        told = str(explain(caught.value))
        beginning = told.partition(" or '")[0].partition("? ")[0]
        assert f"qat: error: {beginning}" in PAGE
