"""Composition: groups, recipes, the user's own recipes, and what a recipe must not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qat.config import compose
from qat.errors import InputError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_default_config_is_complete() -> None:
    config = compose.compose([])
    assert config.recipe is None
    assert config.scheme._target_ == "qat.scheme.Scheme"
    assert OmegaConf.select(config, "export.compressed_tensors._target_").startswith("qat.export.")
    assert "hydra" not in config


def test_overrides_win_over_the_recipe_and_the_recipe_over_the_default(tmp_path: Path) -> None:
    recipes = write(tmp_path, "mine/a", "defaults: [{override /scheme: w8a8}]\nseed: 7\nevaluate: {batch_size: 3}\n")
    config = compose.compose(["recipe=mine/a", "seed=8"], recipes)
    assert (config.recipe, config.seed, config.evaluate.batch_size) == ("mine/a", 8, 3)
    assert config.scheme.config_groups.weights.weights.num_bits == 8


def test_phases_keep_the_order_of_the_recipe(tmp_path: Path) -> None:
    text = (
        "defaults:\n  - /phase@schedule.warmup: float_warmup\n  - /phase@schedule.main: fake_quant\n"
        "  - _self_\nschedule: {warmup: {share: 0.1}}\n"
    )
    config = compose.compose(["recipe=mine/a", "phase@schedule.main=blend"], write(tmp_path, "mine/a", text))
    assert list(config.schedule) == ["warmup", "main"]
    assert config.schedule.warmup.share == 0.1
    assert config.schedule.main._target_.endswith(".Blend")


def test_several_exports_lie_side_by_side() -> None:
    assert list(compose.compose(["export=[compressed_tensors]"]).export) == ["compressed_tensors"]
    assert compose.compose(["export=[]"]).export == {}


def test_several_engines_lie_side_by_side() -> None:
    assert list(compose.compose([]).engine) == ["transformers", "torchao", "onnxruntime"]
    assert list(compose.compose(["engine=torchao"]).engine) == ["torchao"]
    config = compose.compose(["engine=[torchao,transformers]", "engine.transformers.dtype=bfloat16"])
    assert list(config.engine) == ["torchao", "transformers"]
    assert config.engine.transformers.dtype == "bfloat16"
    assert compose.compose(["engine=[]"]).engine == {}


def test_a_shipped_component_is_read_as_it_lies() -> None:
    found = compose.component("export", "compressed_tensors")
    assert found == compose.compose([]).export.compressed_tensors
    assert found["_target_"].startswith("qat.export.")
    with pytest.raises(KeyError):
        compose.component("export", "no_such_format")


def test_user_recipes_extend_and_shadow_the_shipped_ones(tmp_path: Path) -> None:
    recipes = write(write(tmp_path, "mine/a", "seed: 5\n"), "demo/base", "seed: 6\n")
    assert compose.compose(["recipe=mine/a"], recipes).seed == 5
    assert compose.compose(["recipe=demo/base"], recipes).seed == 6
    compose.setup(recipes)
    assert {"mine/a", "demo/base", "demo/w4a16_lsq"} <= set(compose.choices("recipe"))
    assert compose.compose(["recipe=demo/base"]).seed == 0
    compose.setup()
    assert "mine/a" not in compose.choices("recipe")


def test_a_user_recipe_can_build_on_a_shipped_one(tmp_path: Path) -> None:
    text = "defaults: [/recipe/demo/base, _self_]\ntrainer: {max_steps: 11}\n"
    config = compose.compose(["recipe=mine/a"], write(tmp_path, "mine/a", text))
    assert config.trainer.max_steps == 11
    assert config.scheme is None


def test_missing_recipes_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        compose.setup(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {_target_: os.system}", "'model._target_' in a recipe"),
        (
            "scheme: {config_groups: {w: {_target_: os.system}}}",
            "'scheme.config_groups.w._target_' in a recipe",
        ),
        ("evaluate: {prompts: [{_target_: os.system}]}", "'evaluate.prompts.0._target_' in a recipe"),
        ("hydra: {callbacks: {x: {_target_: os.system}}}", "must not set Hydra's own options"),
        ("defaults: [{override /hydra/job_logging: default}]", "must not set Hydra's own options"),
        ("# @package hydra\nmode: RUN", "'@package hydra' has no place in a recipe"),
        ("- a list", "a recipe is a mapping"),
    ],
)
def test_a_recipe_only_picks_and_overrides(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compose.compose(["recipe=mine/bad"], write(tmp_path, "mine/bad", text + "\n"))
    assert message in str(caught.value)
    assert "recipe/mine/bad" in str(caught.value)


def test_composes_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose.compose(["recipe=demo/base"]).model._target_ == "qat.models.tiny_llama.load"
    assert list(tmp_path.iterdir()) == []


def test_hidden_recipes_are_no_choices() -> None:
    assert not [name for name in compose.choices("recipe") if "_base" in name]
