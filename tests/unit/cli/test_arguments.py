"""The words after the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli.arguments import Arguments
from qat.config import record
from qat.errors import InputError


def test_flags_may_stand_between_overrides() -> None:
    parsed = Arguments.parse("run", ["recipe=a/b", "--cfg", "job", "seed=1"])
    assert parsed.words == ["recipe=a/b", "seed=1", "--cfg", "job"]
    assert (parsed.recipes, parsed.help) == (None, False)


@pytest.mark.parametrize("words", [["--recipes", "x y"], ["--recipes=x y"], ["recipes='x y'"]])
def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "x y") if "--" in words[0] else "x y"
    assert Arguments.parse("run", words).recipes == expected


def test_the_last_recipes_folder_wins() -> None:
    assert Arguments.parse("run", ["recipes=/a", "--recipes", "/b"]).recipes == "/b"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag: str) -> None:
    assert Arguments.parse("run", ["seed=1", flag]) == Arguments(["seed=1"], None, help=True)


@pytest.mark.parametrize("key", ["resume", "run"])
def test_the_overrides_of_the_run_come_first(tmp_path: Path, key: str) -> None:
    record.write({}, ["seed=1", "scheme=w8a8", "logger.api_key=<redacted>"], tmp_path)
    words = Arguments.parse("run", [f"{key}={tmp_path}", "seed=2"]).words
    assert words == ["seed=1", "scheme=w8a8", f"{key}={tmp_path}", "seed=2"]


@pytest.mark.parametrize(
    "word", ["scheme=w8a8", "~scheme", "+phase@schedule.x=blend", "schedule.x.steps=3", "optimizer.lr=1", "recipe=a/b"]
)
def test_what_a_finished_run_has_settled_is_refused(tmp_path: Path, word: str) -> None:
    record.write({}, ["scheme=w4a16_g32"], tmp_path)
    with pytest.raises(InputError) as caught:
        Arguments.parse("run", [f"run={tmp_path}", word, "--cfg", "job"])
    assert str(caught.value).startswith(f"'{word}' has no effect with run={tmp_path}: that run is finished")


def test_how_a_finished_run_is_measured_may_change(tmp_path: Path) -> None:
    record.write({}, ["scheme=w4a16_g32"], tmp_path)
    words = ["evaluate.blocks=2", "data.test=[a.txt]", "trainer.device=cpu", "export=[]", "engine=[vllm]"]
    assert Arguments.parse("run", [f"run={tmp_path}", *words]).words == ["scheme=w4a16_g32", f"run={tmp_path}", *words]


def test_null_is_no_folder() -> None:
    assert Arguments.parse("run", ["resume=null"]).words == ["resume=null"]


def test_a_value_that_cannot_be_read() -> None:
    with pytest.raises(InputError, match="'resume=a=b' cannot be read"):
        Arguments.parse("run", ["resume=a=b"])
