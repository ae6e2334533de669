"""Every shipped recipe composes offline, passes the checks, and only picks and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.config.check import check, instantiate
from qat.config.compose import choices, compose
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages.quantization import schedule_of

RECIPES = sorted(choices("recipe"))
MODELS = ("llama3_2_1b", "llama3_1_8b", "qwen3_0_6b", "mistral_7b")
SCHEMES = {"w4a16_lsq": (4, None), "w8a8_lsq": (8, 8), "w4a8_lsq": (4, 8)}


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes name the development data; whether it is there does not matter here."""
    monkeypatch.setenv("QAT_SHARED_DATA", str(tmp_path))


def checked(recipe: str, *overrides: str) -> RunConfig:
    return check(compose([f"recipe={recipe}", *overrides]))


def test_the_recipes_of_the_models_people_use_are_all_there() -> None:
    assert {f"{model}/{method}" for model in MODELS for method in SCHEMES} <= set(RECIPES)
    assert {"demo/base", "demo/w4a16_lsq", "stories260k/w4a16_lsq", "novels_llama/w2a16_g32_lsq"} <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_passes_the_checks(recipe: str) -> None:
    run = checked(recipe)
    assert run.recipe == recipe
    instantiate(run.optimizer, "optimizer")
    instantiate(run.trainer, "trainer")
    if run.scheme is None:
        assert recipe == "demo/base"
    else:
        schedule_of(run, instantiate(run.scheme, "scheme"))  # it ends fully quantized


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", SCHEMES)
def test_a_big_models_recipe_has_the_scheme_of_its_name(model: str, method: str) -> None:
    run = checked(f"{model}/{method}")
    (group,) = run.scheme["config_groups"].values()
    inputs = group.get("input_activations")
    assert (group["weights"]["num_bits"], inputs and inputs["num_bits"]) == SCHEMES[method]
    assert run.loss["_target_"].endswith("Distill")
    assert run.baseline.tuned_float is False  # it would double the cost


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.split("/")[0] in MODELS])
def test_a_big_models_recipe_asks_for_text(recipe: str) -> None:
    run = checked(recipe)
    source = instantiate(run.data, "data")
    with pytest.raises(InputError, match="train"):
        next(source.documents("train"))


def test_the_demo_promises_its_recovery() -> None:
    run = checked("demo/w4a16_lsq")
    assert run.expect == {"qat": {"recovery": {"rtn": {"min": 0.6}}}}
    assert run.baseline.tuned_float is True
    assert list(run.baseline.ptq) == ["rtn"]


def test_the_base_is_trained_for_25_tokens_a_parameter() -> None:
    trainer = instantiate(checked("demo/base").trainer, "trainer")
    tokens = trainer.max_steps * trainer.batch_size * trainer.accumulate * trainer.block_size
    assert tokens >= 25 * 721_792  # parameters, embedding once


def test_the_two_bit_recipe_lowers_its_bits() -> None:
    run = checked("novels_llama/w2a16_g32_lsq")
    schedule = schedule_of(run, instantiate(run.scheme, "scheme"))
    bits = [schedule.state_at(step).weight_bits for step in range(schedule.total_steps)]
    assert bits[0] == 4
    assert bits[-1] is None  # the scheme's own
    assert bits == sorted(bits, key=lambda value: -(value or 0))
