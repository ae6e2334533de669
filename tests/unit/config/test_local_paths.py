"""Which words of a config name local files, and what is recorded in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.config.compose import compose
from qat.config.local_paths import absolute, overrides


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus and a model, whose own name is a glob and has a quote in it."""
    folder = tmp_path / 'a[1] "b" c'
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "a.txt").touch()
    (folder / "model").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_what_lies_here_is_absolute_and_nothing_else(here: Path) -> None:
    config: dict[str, Any] = {
        "model": {"path": "model", "tokenizer": "meta-llama/Llama-3.2-1B", "dtype": "model"},
        "data": {"train": ["corpus/a.txt", "/elsewhere/*.txt", "none/*.txt"], "test": [], "text_key": "model"},
        "recipes": None,
    }
    assert absolute(config) == {
        "model": {"path": str(here / "model"), "tokenizer": "meta-llama/Llama-3.2-1B", "dtype": "model"},
        "data": {
            "train": [str(here / "corpus/a.txt"), "/elsewhere/*.txt", "none/*.txt"],
            "test": [],
            "text_key": "model",
        },
        "recipes": None,
    }
    assert config["model"]["path"] == "model", "the run itself is left alone"
    assert absolute({"model": None, "data": "x"}) == {"model": None, "data": "x"}


def test_a_glob_stays_one_and_the_folder_that_it_is_in_does_not_become_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (pattern,) = absolute({"data": {"train": ["corpus/*.txt"]}})["data"]["train"]
    monkeypatch.chdir(tmp_path)
    found = tmp_path / 'a[1] "b" c' / "corpus" / "a.txt"
    assert [str(path) for path in Path("/").glob(pattern[1:])] == [str(found)]


def test_the_overrides_say_the_same_to_hydra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed = ["model=hf", "model.path=model", "data=text", "data.train=[corpus/a.txt,corpus/*.txt]"]
    before = {"model": {"path": "model"}, "data": {"train": ["corpus/a.txt", "corpus/*.txt"], "test": []}}
    after = absolute(before)
    words = overrides(before, after)
    assert [word.partition("=")[0] for word in words] == ["model.path", "data.train"]
    monkeypatch.chdir(tmp_path)
    config = compose([*typed, *words])
    assert config.model.path == after["model"]["path"]
    assert list(config.data.train) == after["data"]["train"]
