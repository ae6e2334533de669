"""``qat sensitivity`` and ``qat allocate``, and the scheme that comes out in PTQ, export and QAT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import error_of, metrics

from qat.checkpoint import QuantizedCheckpoint
from qat.cli.main import main
from qat.mixed_precision import sensitivity as measuring
from qat.mixed_precision.result import Result
from qat.mixed_precision.sensitivity import FILE, PARTS, Sensitivity

pytestmark = pytest.mark.slow
MIXED = "allocations/3.5_bits"


@pytest.fixture(scope="module")
def small(text_words: list[str]) -> list[str]:
    """A shrunk random Llama and one file of text."""
    return [
        *("model=hf", "model.path=any", "model.shrink=true", "model.architecture={model_type: llama}"),
        *text_words,
        *("trainer.max_steps=2", "trainer.block_size=32", "trainer.batch_size=2", "trainer.val_every=0"),
        *("trainer.device=cpu", "evaluate.blocks=2", "calibration_batches=1", "engine=[]"),
    ]


@pytest.fixture(scope="module")
def finished(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sensitivity at 2, 4 and 8 bits with its allocation at 3.5."""
    folder = tmp_path_factory.mktemp("sensitivity") / "run"
    words = ("scheme=w4a16_channel", "ptq=rtn_mse", "widths=[8,2,4]", f"run_dir={folder}")
    assert main(["sensitivity", *small, *words]) == 0
    assert main(["allocate", f"run={folder}", "budget=3.5"]) == 0
    return folder


def test_every_layer_is_measured_at_every_width(finished: Path) -> None:
    found = Sensitivity.read(finished)
    assert found.widths == [2, 4, 8]
    assert (found.measure, found.ptq, found.ground) == ("kl", "rtn_mse", 0.0)
    assert found.tokens == 2 * 32
    assert {tuple(unit.damage) for unit in found.units} == {(2, 4, 8)}
    assert sum(unit.damage[2] for unit in found.units) > sum(unit.damage[8] for unit in found.units)


def test_the_allocation_is_within_its_budget_and_was_measured(finished: Path) -> None:
    result = Result.model_validate_json((finished / MIXED / "allocation.json").read_text())
    assert 3.0 < result.chosen.bits <= 3.5
    assert all(row.measured is not None for row in result.rows)
    assert {"uniform_2", "uniform_4", "uniform_8", "first_4_else_2", "last_4_else_2"} < {
        row.name for row in result.compared
    }
    written = {path.stem for path in (finished / MIXED / "compared").iterdir()}
    assert written == {row.name for row in result.compared}
    for row in result.compared:
        assert row.bits > 3.5 or result.chosen.predicted <= row.predicted
    assert (finished / MIXED / "index.html").read_text().startswith("<!doctype html>")


def test_the_scheme_goes_through_ptq_and_an_export(finished: Path, small: list[str], tmp_path: Path) -> None:
    """The checkpoint has the predicted bytes, and the export reads back without one integer that differs."""
    scheme = finished / MIXED / "scheme.yaml"
    assert main(["ptq", *small, f"scheme={scheme}", "ptq=rtn_mse", f"run_dir={tmp_path / 'ptq'}"]) == 0
    result = Result.model_validate_json((finished / MIXED / "allocation.json").read_text())
    checkpoint = QuantizedCheckpoint.load(tmp_path / "ptq" / "quantized")
    assert checkpoint.nbytes == result.chosen.bytes
    widths = {name: entry.args.num_bits for name, entry in checkpoint.weights.items()}
    assert widths == result.chosen.widths
    assert metrics(tmp_path / "ptq")["exports"]["compressed_tensors"]["mismatched_codes"] == 0


def test_training_starts_from_it_and_the_run_can_be_taken_up_without_the_file(
    finished: Path, small: list[str], tmp_path: Path
) -> None:
    scheme = Path(shutil.copy(finished / MIXED / "scheme.yaml", tmp_path / "mine.yaml"))
    run = tmp_path / "run"
    assert main(["train", *small, f"scheme={scheme}", f"run_dir={run}"]) == 0
    recorded = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["scheme"]["config_groups"]
    assert {*recorded} == {*yaml.safe_load(scheme.read_text())["config_groups"]}
    scheme.unlink()
    assert main(["export", f"run={run}", "export=torchao"]) == 0


def test_an_interrupted_run_is_resumed(
    finished: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, measure = tmp_path / "run", measuring._measure
    words = ("scheme=w4a16_channel", "ptq=rtn_mse", "widths=[8,2,4]")

    def interrupted(probe: Any, unit: Any, *rest: Any) -> Any:
        if "k_proj" in unit.name:
            raise KeyboardInterrupt
        return measure(probe, unit, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "_measure", interrupted)
        told = error_of(capsys, "sensitivity", *small, *words, f"run_dir={run}", code=130)
    assert f"resume with: qat sensitivity resume={run}" in told
    assert len((run / PARTS).read_text().splitlines()) == 1
    told = error_of(capsys, "allocate", f"run={run}", "budget=3")
    assert f"finish it with: qat sensitivity resume={run}" in told
    told = error_of(capsys, "sensitivity", f"resume={run}", "widths=[2]")
    assert "widths=[2] but" in told
    assert main(["sensitivity", f"resume={run}"]) == 0
    assert (run / FILE).read_bytes() == (finished / FILE).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sensitivity", "widths=[1,4]"], "widths=[1, 4]: 1 bits have no grid; allowed are 2 to 8"),
        (["sensitivity", "widths=[4,9]"], "9 bits have no grid"),
        (["sensitivity", "widths=[]"], "must name one or more widths"),
        (["sensitivity", "granularity=layers"], "granularity=layers is not one of layer, shared_input, block; did you"),
        (["sensitivity", "budget=3"], "budget=3.0 is not for qat sensitivity, but for qat allocate"),
        (["ptq", "widths=[2,4]"], "widths=[2, 4] is not for qat ptq, but for qat sensitivity"),
        (["allocate", "budget=3"], "name its folder with run=<run folder>"),
    ],
)
def test_what_cannot_be_measured(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in error_of(capsys, *words, *small, f"run_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget=1.5"], "budget=1.5 cannot be met"),
        (["budget_bytes=10"], "budget_bytes=10 cannot be met"),
        ([], "give one of budget=<bits a weight> and budget_bytes=<bytes of the checkpoint>"),
        (["budget=3", "budget_bytes=1e6"], "give one of"),
        (["budget=nan"], "budget=nan must be a number"),
        (["budget=3.5"], "exists already; replace it with overwrite=true"),
        (["budget=3", "widths=[2,4]"], "has no effect with run="),
    ],
)
def test_what_cannot_be_allocated(
    finished: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    before = sorted(finished.rglob("*"))
    assert said in error_of(capsys, "allocate", f"run={finished}", *words)
    assert sorted(finished.rglob("*")) == before


def test_another_run_has_nothing_to_allocate_by(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ptq", *small, "ptq=rtn", "export=[]", f"run_dir={tmp_path / 'run'}"]) == 0
    told = error_of(capsys, "allocate", f"run={tmp_path / 'run'}", "budget=3")
    assert "has no sensitivity.json; make one with: qat sensitivity" in told


def test_a_budget_in_bytes(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    uniform = json.loads((run / MIXED / "allocation.json").read_text())["compared"]
    budget = next(row["bytes"] for row in uniform if row["name"] == "uniform_4")
    assert main(["allocate", f"run={run}", f"budget_bytes={budget}"]) == 0
    result = Result.model_validate_json((run / "allocations" / f"{budget}_bytes" / "allocation.json").read_text())
    assert result.chosen.bytes <= budget
    assert result.chosen.predicted <= next(row.predicted for row in result.compared if row.name == "uniform_4")
