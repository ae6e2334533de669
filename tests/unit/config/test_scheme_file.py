"""``scheme=<path>.yaml``: read where a name of ``configs/scheme`` stands else, and recorded with the run."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from qat.cli.arguments import Arguments
from qat.config.check import check, instantiate
from qat.config.compose import compose
from qat.config.explain import explain
from qat.config.record import read_overrides, resolved
from qat.config.run_folder import choose
from qat.config.scheme_file import OPTIONAL
from qat.scheme import Scheme

WEIGHTS = {"num_bits": 5, "type": "int", "symmetric": True, "strategy": "channel"}
NODE = {"config_groups": {"w5": {"targets": ["Linear"], "weights": WEIGHTS}}, "scale_format": "fp16"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a folder" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(NODE))
    return path


def test_what_a_file_may_leave_out_are_the_schemes_own_defaults() -> None:
    scheme = Scheme(NODE["config_groups"])
    given = {field.name: getattr(scheme, field.name) for field in fields(Scheme) if field.name != "config_groups"}
    assert {name: value for name, value in OPTIONAL.items() if name != "_target_"} == given


def test_a_file_is_a_scheme_like_any_other(file: Path) -> None:
    run = check(compose([f"scheme='{file}'", "scheme.group_fallback=channel"]))
    scheme = instantiate(run.scheme, "scheme")
    assert scheme == Scheme(NODE["config_groups"], scale_format="fp16", group_fallback="channel")
    assert run.choices.scheme == str(file)


def test_a_relative_path_is_from_the_current_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert compose(["scheme=mine.yaml"]).scheme.scale_format == "fp16"


def test_a_recipe_can_name_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    recipe = f"defaults:\n  - override /scheme: {file}\n"
    (tmp_path / "recipes" / "mine" / "mixed.yaml").write_text(recipe)
    assert compose(["recipe=mine/mixed"], tmp_path / "recipes").scheme.scale_format == "fp16"


def test_what_it_held_is_recorded_and_read_again_from_any_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    words = ["scheme=mine.yaml", f"run_dir={tmp_path / 'run'}", "scheme.group_fallback=channel"]
    config = compose(words)
    folder = choose("train", check(config), config, words).create()
    file.write_text("changed: since then")
    monkeypatch.chdir(tmp_path)
    moved = folder.rename(tmp_path / "moved, with a comma")
    again = compose(Arguments.parse("train", [f"resume='{moved}'"]).words)
    assert again.scheme == config.scheme
    assert resolved(again)["scheme"]["config_groups"]["w5"]["weights"]["num_bits"] == 5


def test_a_scheme_by_name_needs_no_record(tmp_path: Path) -> None:
    words = ["scheme=w8a8", f"run_dir={tmp_path / 'run'}"]
    config = compose(words)
    folder = choose("train", check(config), config, words).create()
    assert read_overrides(folder) == words
    assert not (folder / ".hydra" / "scheme.yaml").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "is no scheme"),
        ("num_bits: 4", "is no scheme"),
        ("a: [", "cannot be read as YAML"),
        ("defaults: [w8a8]\nconfig_groups: {}", "has a defaults list"),
        ("config_groups: {}\ngroup_size: 3", "scheme has no option 'group_size'"),
        ("_target_: os.system\nconfig_groups: {}", "scheme._target_='os.system' is not allowed"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match=".") as caught:
        check(compose([f"scheme={path}"]))
    assert said in str(explain(caught.value))


def test_a_file_that_is_not_there_is_told_so() -> None:
    with pytest.raises(Exception, match=".") as caught:
        compose(["scheme=nowhere/mine.yaml"])
    assert "scheme=nowhere/mine.yaml: there is no such file" in str(explain(caught.value))
