"""`qat compare` on a small random Llama: rows, seeds, candidates, what a resume repeats and what it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import error_of

from qat.checkpoint import QuantizedCheckpoint
from qat.cli.main import main
from qat.config.rows import Row, read
from qat.errors import InputError, Interrupted
from qat.jobs import compare
from qat.jobs.stages import table_rows, training

pytestmark = pytest.mark.slow
TUNED = Row(name="tuned_float", title="tuned float", kind="float")
BAD = Row(name="bad", title="does not fit", kind="trained", overrides=["scheme.config_groups.weights.targets=[Conv2d]"])


@pytest.fixture(scope="module")
def small(text_words: list[str]) -> list[str]:
    return [
        *("model=hf", "model.path=any", "model.shrink=true", "model.architecture={model_type: llama}"),
        *text_words,
        *("trainer.max_steps=2", "trainer.block_size=32", "trainer.batch_size=2", "trainer.val_every=0"),
        *("trainer.device=cpu", "evaluate.blocks=2", "scheme=w3a16_channel", "optimizer.lr=0.01"),
    ]


@pytest.fixture(scope="module")
def finished(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows with two seeds, besides the tuned float."""
    folder = tmp_path_factory.mktemp("runs") / "table"
    words = ["rows=[rtn,lsq_distill]", "seeds=[3,5]", "tune=false", f"run_dir={folder}"]
    assert main(["compare", *small, *words]) == 0
    return folder


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_row_has_every_seed(finished: Path) -> None:
    found = read_json(finished / "compare.json")
    assert [row["name"] for row in found["rows"]] == ["tuned_float", "rtn", "lsq_distill"]
    assert found["seeds"] == [3, 5]
    for row in found["rows"]:
        assert [one["seed"] for one in row["seeds"]] == [3, 5]
        for one in row["seeds"]:
            path = finished / "rows" / row["name"] / f"seed{one['seed']}" / "metrics.json"
            own = read_json(path)
            assert own["quality"] == one["quality"]
            assert own["quality"]["loss"] > 0 and own["quality"]["bytes"] > 0
        losses = [one["quality"]["loss"] for one in row["seeds"]]
        assert losses[0] != losses[1], "seeds train on other batches"
        assert row["statistics"]["loss"]["mean"] == pytest.approx(sum(losses) / 2)
        assert row["tokens"] == (None if row["kind"] == "ptq" else 2 * 2 * 32)
    assert found["budget"]["trainings"] == 4
    assert found["best_ptq"] == "rtn"


def test_a_row_is_what_its_parts_make_of_it(finished: Path) -> None:
    tuned, _, trained = read_json(finished / "compare.json")["rows"]
    for one, float_one in zip(trained["seeds"], tuned["seeds"], strict=True):
        folder = finished / "rows" / "lsq_distill" / f"seed{one['seed']}" / "training"
        assert QuantizedCheckpoint.load(folder / "quantized").nbytes == one["quality"]["bytes"]
        assert not (folder / "checkpoints").exists(), "nothing is left to resume"
        assert one["against"] == "tuned_float"
        assert float_one["quality"]["loss"] < read_json(finished / "float.json")["loss"]


def test_the_files_for_readers(finished: Path) -> None:
    page = (finished / "table.md").read_text()
    assert "rows=[rtn,lsq_distill]" in page and "run_dir" not in page
    assert "data.train=[<path>]" in page
    assert "| LSQ, distilled |" in page
    assert "plotly" in (finished / "plot.html").read_text()[:2000].lower()


def test_a_resume_computes_what_is_missing_and_nothing_else(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "table"))
    gone = folder / "rows" / "lsq_distill" / "seed5"
    before = read_json(gone / "metrics.json")
    shutil.rmtree(gone)
    made: list[str] = []
    fit_model, post_training = training.fit_model, table_rows.quantization.post_training
    monkeypatch.setattr(training, "fit_model", lambda *a, **k: (made.append("trained"), fit_model(*a, **k)))
    monkeypatch.setattr(
        table_rows.quantization, "post_training", lambda *a, **k: (made.append("ptq"), post_training(*a, **k))[1]
    )
    assert main(["compare", f"resume={folder}"]) == 0
    assert made == ["trained"]
    after = read_json(gone / "metrics.json")
    assert after["quality"] == before["quality"], "the same seed gives the same result"


def test_a_resume_can_add_a_row(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "table"))
    monkeypatch.setattr(training, "fit_model", lambda *a, **k: pytest.fail("nothing is left to train"))
    assert main(["compare", f"resume={folder}", "rows=[rtn,rtn_mse]"]) == 0
    found = read_json(folder / "compare.json")
    assert [row["name"] for row in found["rows"]] == ["tuned_float", "rtn", "rtn_mse"]


def test_a_row_whose_definition_changed_is_not_mixed_with_its_old_results(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "table"))
    changed = Row(name="rtn", title="RTN", kind="ptq", overrides=["ptq=rtn_mse"])
    monkeypatch.setattr(compare, "picked", lambda names: [TUNED, changed])
    line = error_of(capsys, "compare", f"resume={folder}")
    assert "was made with 'ptq=rtn', and row rtn is now 'ptq=rtn_mse'; remove that folder" in line


def test_candidates_are_chosen_on_the_validation_split_with_the_first_seed(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"optimizer.lr": [1e-6, 0.01]}
    row = Row(name="ours", title="Ours", kind="trained", overrides=["loss=cross_entropy"], tune=grid)
    monkeypatch.setattr(compare, "picked", lambda names: [TUNED, row, BAD])
    folder = tmp_path / "table"
    assert main(["compare", *small, "seeds=[0,1]", f"run_dir={folder}"]) == 0
    _, ours, bad = read_json(folder / "compare.json")["rows"]
    losses = {
        value: read_json(folder / f"rows/ours/seed0/optimizer.lr={value}/validation.json")["loss"]
        for value in ("1e-06", "0.01")
    }
    assert losses["0.01"] < losses["1e-06"]
    assert ours["validation"] == {f"optimizer.lr={value}": loss for value, loss in losses.items()}
    assert ours["settings"] == ["optimizer.lr=0.01"]
    assert not (folder / "rows/ours/seed1/optimizer.lr=1e-06").exists()
    assert read_json(folder / "compare.json")["budget"]["trainings"] == 2 + 2 + 1
    assert "Conv2d" in bad["reason"]
    assert [(one["seed"], one["quality"]) for one in bad["seeds"]] == [(0, None)], "another seed would fit no better"
    assert "- does not fit was left out: " in (folder / "table.md").read_text()


def test_an_algorithm_that_does_not_apply_is_shown_with_its_reason(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "table"))

    def refuse(*arguments: object) -> None:
        raise InputError("this needs quantized activations")

    monkeypatch.setattr(table_rows.quantization, "post_training", refuse)
    assert main(["compare", f"resume={folder}", "rows=[rtn,rtn_mse]"]) == 0
    found = {row["name"]: row for row in read_json(folder / "compare.json")["rows"]}
    assert found["rtn_mse"]["reason"] == "this needs quantized activations"
    assert found["rtn"]["reason"] is None, "what is there stays"
    assert not (folder / "rows/rtn_mse/seed3/metrics.json").exists(), "a resume tries again"
    assert "RTN, MSE ranges was left out: this needs quantized activations" in (folder / "table.md").read_text()


def interrupt(*arguments: object, **options: object) -> None:
    raise Interrupted("interrupted after step 1 of 2")


@pytest.mark.parametrize("grid", [{}, {"optimizer.lr": [0.01, 0.02]}])
def test_an_interruption_is_no_result(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    grid: dict[str, list[float | int | str]],
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "table"))
    row = Row(name="ours", title="Ours", kind="trained", overrides=["loss=cross_entropy"], tune=grid)
    monkeypatch.setattr(compare, "picked", lambda names: [TUNED, row])
    monkeypatch.setattr(table_rows.qat_training, "train", interrupt)
    with pytest.raises(SystemExit, match=str(Interrupted.exit_code)):
        main(["compare", f"resume={folder}", "tune=true"])
    assert f"interrupted in row ours; resume with: qat compare resume={folder}" in capsys.readouterr().err
    assert not [*(folder / "rows/ours").rglob("metrics.json"), *(folder / "rows/ours").rglob("validation.json")]


def test_a_row_whose_candidates_do_not_fit_is_left_out(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "table"))
    bad = BAD.model_copy(update={"tune": {"optimizer.lr": [0.01, 0.02]}})
    monkeypatch.setattr(compare, "picked", lambda names: [TUNED, bad])
    assert main(["compare", f"resume={folder}", "tune=true"]) == 0
    _, found = read_json(folder / "compare.json")["rows"]
    assert "Conv2d" in found["reason"] and not found["validation"]


def test_a_resume_scores_on_the_same_text(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "compare", f"resume={finished}", "evaluate.blocks=1")
    assert "evaluate.blocks=1 but" in line and "was started with 2; start a new run" in line


def test_a_run_of_another_command_is_not_taken_up(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = finished / "rows" / "lsq_distill" / "seed3" / "training"
    assert "is no run of qat compare" in error_of(capsys, "compare", f"resume={other}")


def test_a_scheme_file_is_named_without_its_folder(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine" / "scheme.yaml"
    path.parent.mkdir()
    path.write_text("config_groups: {all: {targets: [Linear], weights: {num_bits: 3, strategy: channel}}}\n")
    monkeypatch.setattr(compare, "picked", lambda names: [TUNED])
    words = [*small, f"scheme={path}", "seeds=[0]", f"run_dir={tmp_path / 'table'}"]
    assert main(["compare", *words]) == 0
    assert read_json(tmp_path / "table/compare.json")["scheme"] == "mine/scheme.yaml"
    assert str(tmp_path) not in (tmp_path / "table/table.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rows=[lsqq]"], "row 'lsqq' not found; did you mean 'lsq'"),
        (["~scheme"], "this run has no scheme"),
    ],
)
def test_bad_input_writes_nothing(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in error_of(capsys, "compare", *small, *words, f"run_dir={tmp_path / 'table'}")
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize("word", ["rows=[rtn]", "seeds=[1]", "tune=false"])
def test_what_only_compare_reads_is_refused_elsewhere(capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert error_of(capsys, "ptq", word).endswith("is not for qat ptq, but for qat compare")


def test_the_shipped_rows_have_the_grid_of_torchaos() -> None:
    grids = {name: read(name).tune for name in ("tuned_float", "lsq", "lsq_distill", "torchao")}
    assert len({str(grid) for grid in grids.values()}) == 1 and grids["torchao"]
