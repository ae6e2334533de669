"""The recipes for large models, run whole on the same architectures small and random: `model.shrink=true`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qat.cli.main import main
from qat.config.compose import choices

MODELS = ("llama3_2_1b", "llama3_1_8b", "qwen3_0_6b", "mistral_7b")
RECIPES = [recipe for recipe in choices("recipe") if recipe.split("/")[0] in MODELS]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_big_models_recipe_runs_to_its_end(recipe: str, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = [
        *("model.shrink=true", "trainer.max_steps=2", "trainer.block_size=32", "trainer.accumulate=1"),
        *("trainer.batch_size=2", "trainer.val_every=0", "trainer.device=cpu", "evaluate.blocks=2"),
        *(f"data.{split}=[{text}]" for split in ("train", "validation", "test")),
        *("data.validation_share=0", "data.test_share=0"),
    ]
    assert main(["run", f"recipe={recipe}", f"run_dir={folder}", *small]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["recipe"] == recipe
    assert metrics["train"]["steps"] == 2
    export = metrics["exports"]["compressed_tensors"]
    assert export["tensors"] == 14
    assert (export["mismatched_codes"], export["mismatched_scales"]) == (0, 0)
    assert export["max_logit_difference"] <= 1e-4
    assert metrics["qat"]["loss"] == pytest.approx(export["loss"], abs=1e-4)
    assert metrics["qat"]["bytes"] < metrics["float"]["bytes"]
    assert metrics["qat"]["recovery_against"] == "base"
