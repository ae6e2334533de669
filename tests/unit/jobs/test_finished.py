"""PTQ runs, and commands on a finished run: what they write, and what they leave alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from support import error_of, metrics

from qat.checkpoint import QuantizedCheckpoint
from qat.cli.main import main
from qat.jobs.stages import exports as export_stage
from qat.jobs.stages import inputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(text_words: list[str]) -> list[str]:
    """Overrides for one step on a small random model; a test names its architecture."""
    return [
        *("model=hf", "model.path=any", "model.shrink=true", *text_words),
        *("trainer.max_steps=1", "trainer.block_size=32", "trainer.batch_size=2", "trainer.val_every=0"),
        *("trainer.device=cpu", "evaluate.blocks=2", "calibration_batches=1"),
    ]


@pytest.fixture(scope="module")
def llama(small: list[str]) -> list[str]:
    return [*small, "model.architecture={model_type: llama}"]


@pytest.fixture(scope="module")
def finished(llama: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ptq"
    assert main(["ptq", *llama, "ptq=rtn_mse", f"run_dir={folder}"]) == 0
    return folder


def test_ptq_writes_and_validates_its_exports(finished: Path) -> None:
    found = metrics(finished)
    export = found["exports"]["compressed_tensors"]
    assert (export["mismatched_codes"], export["mismatched_scales"], export["mismatched_zero_points"]) == (0, 0, 0)
    assert export["max_logit_difference"] <= 1e-4
    assert export["loss"] == pytest.approx(found["ptq"]["rtn_mse"]["loss"], rel=1e-5)
    assert export["engine"].startswith("transformers ")
    assert found["ptq"]["rtn_mse"]["of"] == "base"
    assert (finished / "exports" / "compressed_tensors" / "config.json").is_file()
    assert (finished / "quantized" / "manifest.json").is_file()


@pytest.mark.usefixtures("one_code_differs")
def test_ptq_fails_when_an_export_is_not_the_checkpoint(
    llama: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, "ptq", *llama, f"run_dir={tmp_path / 'run'}", code=1)
    assert "export compressed_tensors is not the quantized checkpoint: 1 codes" in line
    assert metrics(tmp_path / "run")["exports"]["compressed_tensors"]["mismatched_codes"] == 1


@pytest.mark.parametrize("stage", ["write", "validate"])
def test_a_ptq_on_a_full_disk_leaves_nothing(
    llama: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_stage, stage, full)
    assert "no disk space left" in error_of(capsys, "ptq", *llama, f"run_dir={tmp_path / 'run'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "train", "ptq"])
def test_gpt2_is_quantized_without_an_export(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = [*small, "model.architecture={model_type: gpt2}", f"run_dir={tmp_path / 'run'}"]
    line = error_of(capsys, command, *words)
    assert "Conv1D" in line
    assert "run without an export is export=[]" in line
    assert not (tmp_path / "run").exists()
    assert main([command, *words, "export=[]"]) == 0
    assert (tmp_path / "run" / "quantized").is_dir()
    assert not (tmp_path / "run" / "exports").exists()


def test_evaluate_calls_a_ptq_model_what_it_is(run: Path) -> None:
    assert main(["evaluate", f"run={run}"]) == 0
    found = metrics(run, "evaluate.json")
    assert found["qat"] is None
    assert found["ptq"] == metrics(run)["ptq"]
    assert found["float"] == metrics(run)["float"]


@pytest.mark.parametrize("word", ["evaluate.blocks=1", "trainer.block_size=16", "seed=5", "data.add_eos=false"])
def test_validate_on_other_text_stores_nothing(run: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    before = (run / "metrics.json").read_bytes()
    assert main(["validate", f"run={run}", word]) == 0
    assert (run / "metrics.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert "compressed_tensors" in printed
    assert f"not stored in {run / 'metrics.json'}, since it was measured with {word.split('=')[0]}=" in printed


def test_validate_on_the_same_text_stores_what_it_finds(run: Path) -> None:
    before = metrics(run)
    (run / "metrics.json").write_text(json.dumps({**before, "exports": {}}))
    assert main(["validate", f"run={run}", "evaluate.batch_size=8"]) == 0
    after = metrics(run)["exports"]["compressed_tensors"]
    wanted = before["exports"]["compressed_tensors"]
    engine, other = after.pop("engines")["transformers"], wanted.pop("engines")["transformers"]
    assert after == wanted
    for key in ("max_logit_difference", "loss", "greedy_tokens_equal", "description"):
        assert engine[key] == other[key]


def test_a_float_training_has_no_quantized_model(
    llama: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "float"
    assert main(["train", *llama, "~scheme", f"run_dir={folder}"]) == 0
    for command in ("evaluate", "validate", "export"):
        line = error_of(capsys, command, f"run={folder}")
        assert line.endswith(f"score its float model with: qat evaluate model=hf model.path={folder / 'model'}")


@pytest.mark.parametrize("command", ["evaluate", "validate"])
def test_another_model_is_not_compared_with_the_run(
    run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = error_of(capsys, command, f"run={run}", "model.architecture={model_type: mistral}")
    assert f"is not the model that {run} quantized: its model_type is mistral, there it is llama" in line
    assert not (run / "evaluate.json").exists()


def test_validate_needs_an_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no export is picked" in error_of(capsys, "validate", f"run={run}", "export=[]")


def test_validate_keeps_what_it_did_not_measure_of_the_same_files(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And shows what it did."""
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path / "nowhere"))
    assert main(["export", f"run={run}", "export=dequantized", "export.dequantized.dtype=float32"]) == 0
    before = metrics(run)["exports"]["compressed_tensors"]
    capsys.readouterr()
    words = ["export=dequantized", "export.dequantized.dtype=float32", "engine=vllm"]
    assert main(["validate", f"run={run}", *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "dequantized in vllm: not available" in printed
    assert "compressed_tensors was loaded" not in printed
    assert "from earlier commands: compressed_tensors (transformers)" in printed
    assert metrics(run)["exports"]["compressed_tensors"] == before
    assert main(["validate", f"run={run}", "engine=[]"]) == 0
    found = metrics(run)["exports"]
    assert found["compressed_tensors"] == before
    assert set(found["dequantized"]["engines"]) == {"vllm"}


def test_validate_forgets_what_was_measured_of_other_files(run: Path) -> None:
    (run / "exports" / "compressed_tensors" / "notes.txt").write_text("changed")
    assert main(["validate", f"run={run}", "engine=[]"]) == 0
    assert metrics(run)["exports"]["compressed_tensors"]["engines"] == {}


def test_numbers_are_compared_without_model_and_data(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the run was never scored."""
    monkeypatch.setattr(inputs, "load", None)
    (run / "metrics.json").unlink()
    assert main(["validate", f"run={run}", "engine=[]"]) == 0
    found = metrics(run)
    assert (found["model"], found["scheme"]) == ("any", "w4a16_g32")
    assert found["exports"]["compressed_tensors"]["mismatched_codes"] == 0


def test_validate_asks_the_default_engines_where_the_run_had_none(llama: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(["ptq", *llama, "engine=[]", f"run_dir={folder}"]) == 0
    assert metrics(folder)["exports"]["compressed_tensors"]["engines"] == {}
    assert main(["validate", f"run={folder}", "engine=[]"]) == 0
    assert metrics(folder)["exports"]["compressed_tensors"]["engines"] == {}
    assert main(["validate", f"run={folder}"]) == 0
    assert metrics(folder)["exports"]["compressed_tensors"]["engines"]["transformers"]["status"] == "ok"


def test_a_ptq_tells_each_slow_stage_where_there_is_no_terminal(
    llama: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ptq", *llama, f"run_dir={tmp_path / 'run'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" ...")]
    assert lines == [
        "loading the model ...",
        "tokens of the test split ...",
        "quantizing with RTN ...",
        "writing the export compressed_tensors ...",
        "scoring float ...",
        "scoring ptq.rtn_mse ...",
        "re-reading the export compressed_tensors ...",
        "compressed_tensors in transformers ...",
    ]


@pytest.mark.parametrize("stage", ["freeze", "save"])
def test_an_interrupted_ptq_says_that_nothing_was_written(
    llama: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(QuantizedCheckpoint, stage, interrupted)
    assert error_of(capsys, "ptq", *llama, code=130) == "qat: interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []
