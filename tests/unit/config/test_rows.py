"""Rows of a table: what a YAML may say, and what a row makes of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.config import rows
from qat.config.check import check
from qat.config.compose import choices
from qat.config.rows import Row, compose_row, picked, read
from qat.config.schema import RunConfig
from qat.errors import InputError

RECIPE = ["recipe=demo/w4a16_lsq"]


def run_of(row: Row, typed: list[str], *settings: str) -> RunConfig:
    return check(compose_row(row, typed, settings, None).config)


@pytest.mark.parametrize("name", choices("row"))
@pytest.mark.parametrize("scheme", ["w4a16_channel", "w8a8"])
def test_every_row_fits_a_recipe(name: str, scheme: str) -> None:
    row = read(name)
    run = run_of(row, [*RECIPE, f"scheme={scheme}"], *row.candidates()[-1], "seed=2")
    assert run.seed == 2
    assert run.recipe == "demo/w4a16_lsq"


def test_a_row_that_picks_another_part_drops_the_options_of_the_recipes() -> None:
    run = run_of(read("torchao"), RECIPE, "optimizer.lr=0.002")  # the recipe sets loss.teacher
    assert run.loss == {"_target_": "qat.training.losses.CrossEntropy"}
    assert run.scheme["scale_format"] == "fp32"
    assert run.optimizer["lr"] == 0.002
    typed = [*RECIPE, "loss.temperature=2", "+phase@schedule.warmup=float_warmup"]
    run = run_of(read("lsq"), typed)
    assert run.loss == {"_target_": "qat.training.losses.CrossEntropy"}
    assert run.schedule == {}
    assert run_of(read("recipe"), typed).loss["temperature"] == 2


def test_a_row_that_brings_phases_drops_those_of_the_recipe() -> None:
    run = run_of(read("lsq_dampen"), ["recipe=novels_llama/w2a16_g32_lsq"])
    assert list(run.schedule) == ["before", "dampened"]
    assert list(run_of(read("recipe"), ["recipe=novels_llama/w2a16_g32_lsq"]).schedule) == ["lower_bits", "main"]


def test_more_words_where_activations_are_quantized() -> None:
    def symmetric(scheme: str) -> Any:
        run = run_of(read("torchao"), [*RECIPE, f"scheme={scheme}"])
        inputs = run.scheme["config_groups"]["weights"].get("input_activations")
        return None if inputs is None else inputs["symmetric"]

    assert symmetric("w4a8_channel") is False
    assert symmetric("w4a16_channel") is None


def test_candidates_are_every_combination() -> None:
    row = Row(name="a", title="A", kind="trained", tune={"x": [1, 2], "y": [0.5]})
    assert row.candidates() == [["x=1", "y=0.5"], ["x=2", "y=0.5"]]
    assert Row(name="a", title="A", kind="ptq").candidates() == [[]]


def test_rows_come_in_the_order_in_which_they_are_needed() -> None:
    assert [row.name for row in picked(["lsq", "rtn"])] == ["tuned_float", "rtn", "lsq"]
    assert {row.name for row in picked([])} == set(choices("row"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gptqq"], "row 'gptqq' not found; did you mean 'gptq'"),
        (["rtn", "lsq", "rtn"], "rows names 'rtn' twice"),
    ],
)
def test_names_that_cannot_be_used(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        picked(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: A\nkind: trainedd\n", "kind: Input should be 'float', 'ptq' or 'trained'"),
        ("title: A\nkind: ptq\noverride: [a=1]\n", "override: Extra inputs are not permitted"),
        ("kind: ptq\n", "title: Field required"),
    ],
)
def test_a_mistake_in_a_row_is_named(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "row").mkdir()
    (tmp_path / "row" / "mine.yaml").write_text(text)
    monkeypatch.setattr("qat.paths.configs_dir", lambda: tmp_path)
    with pytest.raises(InputError, match=f"mine.yaml: {message}"):
        rows.read("mine")


def test_a_row_that_does_not_fit_says_why() -> None:
    row = Row(name="a", title="A", kind="ptq", overrides=["ptq=no_such_algorithm"])
    with pytest.raises(InputError, match="ptq 'no_such_algorithm' not found"):
        compose_row(row, RECIPE, [], None)
