"""Every command on a small random Llama and one file of text, and a run that is taken up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import error_of, metrics

from qat.cli.main import main
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.models import hf
from qat.models.save import save_float

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(text_words: list[str]) -> list[str]:
    """Overrides for two steps on a shrunk Llama with quantized activations."""
    return [
        *("model=hf", "model.path=any", "model.shrink=true", "model.architecture={model_type: llama}"),
        *text_words,
        *("trainer.max_steps=4", "trainer.block_size=32", "trainer.batch_size=2", "trainer.val_every=2"),
        *("trainer.val_blocks=2", "trainer.device=cpu", "evaluate.blocks=2"),
    ]


@pytest.fixture(scope="module")
def finished(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every part switched on."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    words = [
        *("scheme=w8a8_static", "loss=distill", "loss.teacher=tuned_float", "baseline.tuned_float=true"),
        *("+ptq@baseline.ptq.rtn_mse=rtn_mse", "evaluate.generate=true", "evaluate.prompts=[def]"),
        *("evaluate.max_new_tokens=3", "+phase@schedule.warmup=float_warmup", "schedule.warmup.steps=1"),
        *("+phase@schedule.main=fake_quant", "calibration_batches=2"),
    ]
    assert main(["run", *small, *words, f"run_dir={folder}"]) == 0
    return folder


def without_clock(found: dict[str, Any]) -> dict[str, Any]:
    """Metrics without what depends on the time of day: how fast the engines were."""
    for export in found["exports"].values():
        for engine in export["engines"].values():
            for key in ("prompt_tokens_per_second", "generated_tokens_per_second", "peak_memory_bytes"):
                assert engine.pop(key) is None or engine["status"] == "ok"
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_has_everything_in_its_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {".hydra", "checkpoints", "quantized", "exports", "tuned_float"}
    assert names >= {"metrics.json", "metrics.csv", "prepare.json", "schedule.json", "training.json"}
    found = metrics(finished)
    assert set(found["ptq"]) == {"rtn", "rtn_mse"}
    assert set(found["qat"]["recovery"]) == {"rtn", "rtn_mse"}
    assert found["scheme"] == "w8a8_static"
    assert found["train"]["tokens"] == 4 * 2 * 32
    assert found["float"]["loss"] > 0
    assert found["tuned_float"]["loss"] > 0
    (sample,) = found["samples"]
    assert sample["prompt"] == "def"
    assert set(sample["continuations"]) == {"float", "tuned_float", "ptq.rtn", "ptq.rtn_mse", "qat"}
    rows = json.loads((finished / "schedule.json").read_text())["rows"]
    assert [row["phase"] for row in rows] == ["warmup", "main"]


def test_a_finished_run_resumes_to_the_same_result(run: Path) -> None:
    before = without_clock(metrics(run))
    assert main(["run", f"resume={run}"]) == 0
    assert without_clock(metrics(run)) == before


def test_a_run_without_its_last_stages_goes_on_from_there(run: Path) -> None:
    before = files(run)
    shutil.rmtree(run / "exports")
    shutil.rmtree(run / "quantized")
    (run / "metrics.json").unlink()
    assert main(["run", f"resume={run}"]) == 0
    after = files(run)
    for name in ("quantized/model.safetensors", "exports/compressed_tensors/model.safetensors"):
        assert after[name] == before[name]
    assert json.loads(after["metrics.json"])["qat"] == json.loads(before["metrics.json"])["qat"]


def test_a_resumed_run_keeps_the_dtype_of_the_rest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "run", f"resume={run}", "rest_dtype=float16")
    assert "rest_dtype=float16 but" in line
    assert "was started with auto" in line


def test_train_ends_with_the_quantized_checkpoint(small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(["train", *small, f"run_dir={folder}"]) == 0
    names = {path.name for path in folder.iterdir()}
    assert "quantized" in names
    assert "exports" not in names
    assert main(["export", f"run={folder}"]) == 0
    assert main(["validate", f"run={folder}"]) == 0
    assert metrics(folder)["exports"]["compressed_tensors"]["mismatched_codes"] == 0


def test_float_training_writes_a_model_that_evaluate_scores_the_same(small: list[str], tmp_path: Path) -> None:
    folder, scored = tmp_path / "float", tmp_path / "scored"
    assert main(["train", *small, "~scheme", f"run_dir={folder}"]) == 0
    again = [word for word in small if not word.startswith("model.")]
    assert main(["evaluate", *again, f"model.path={folder / 'model'}", f"run_dir={scored}"]) == 0
    assert metrics(scored)["float"] == metrics(folder)["float"]
    assert metrics(folder)["scheme"] == metrics(scored)["scheme"] == "float"
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_ptq_needs_no_training(small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(["ptq", *small, "ptq=rtn_mse", "export=[]", f"run_dir={folder}"]) == 0
    found = metrics(folder)
    assert set(found["ptq"]) == {"rtn_mse"}
    assert found["ptq"]["rtn_mse"]["of"] == "base"
    assert found["qat"] is None
    assert not (folder / "checkpoints").exists()
    assert main(["export", f"run={folder}", "export=compressed_tensors"]) == 0


@pytest.mark.parametrize("command", ["train", "ptq"])
def test_a_16_bit_base_stays_16_bit_with_its_stop_tokens(small: list[str], tmp_path: Path, command: str) -> None:
    base, folder = tmp_path / "base", tmp_path / "run"
    loaded = hf.load("any", shrink=True, architecture={"model_type": "llama"})
    save_float(loaded, base, dtype="bfloat16")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    words = [word for word in small if not word.startswith("model.")]
    assert main([command, *words, f"model.path={base}", f"run_dir={folder}"]) == 0
    if command == "train":
        assert main(["export", f"run={folder}"]) == 0
    for made in (folder / "quantized", folder / "exports" / "compressed_tensors"):
        assert load_file(made / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
        assert json.loads((made / "config.json").read_text())["dtype"] == "bfloat16"
        assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == [0, 5]
    assert main(["validate", f"run={folder}"]) == 0


def test_evaluate_leaves_the_metrics_of_a_run_alone(run: Path) -> None:
    before = (run / "metrics.json").read_bytes()
    assert main(["evaluate", f"run={run}", "evaluate.generate=false"]) == 0
    assert (run / "metrics.json").read_bytes() == before
    assert metrics(run, "evaluate.json")["qat"]["loss"] == metrics(run)["qat"]["loss"]


@pytest.mark.usefixtures("one_code_differs")
def test_validate_finds_a_changed_code(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "validate", f"run={run}", code=1)
    assert "export compressed_tensors is not the quantized checkpoint: 1 codes" in line
    assert metrics(run)["exports"]["compressed_tensors"]["mismatched_codes"] == 1


def test_an_export_that_exists_is_replaced_only_when_that_is_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = run / "exports" / "compressed_tensors" / "mark"
    mark.write_text("old")
    line = error_of(capsys, "export", f"run={run}")
    assert line.endswith(f"{mark.parent} exists already; replace it with overwrite=true")
    assert mark.is_file()
    assert metrics(run)["exports"]
    assert main(["export", f"run={run}", "overwrite=true"]) == 0
    assert not mark.exists()
    assert metrics(run)["exports"] == {}, "they were of the old one"
    assert main(["validate", f"run={run}"]) == 0
    assert metrics(run)["exports"]["compressed_tensors"]["mismatched_codes"] == 0


def test_a_replacement_that_is_interrupted_leaves_no_numbers_of_the_old_export(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert metrics(run)["exports"]
    monkeypatch.setattr(CompressedTensorsExporter, "write", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["export", f"run={run}", "overwrite=true"])
    assert metrics(run)["exports"] == {}


def test_an_export_that_cannot_be_read_is_a_problem_of_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = ["export=dequantized", "export.dequantized.dtype=float32"]
    assert main(["export", f"run={run}", *copy]) == 0
    assert main(["validate", f"run={run}", "engine=[]", *copy]) == 0
    assert set(metrics(run)["exports"]) == {"compressed_tensors", "dequantized"}
    damaged = run / "exports" / "compressed_tensors"
    (damaged / "config.json").unlink()
    line = error_of(capsys, "validate", f"run={run}", code=1)
    assert f"export compressed_tensors cannot be read: {damaged}" in line
    assert line.endswith(f"do not use {damaged}")
    found = metrics(run)["exports"]
    assert set(found) == {"dequantized"}, "the stored result was of other files"
    assert found["dequantized"]["engines"]["transformers"]["status"] == "ok", "it was checked all the same"


def test_validate_checks_every_export_in_the_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = ["export=[compressed_tensors,dequantized]", "export.dequantized.dtype=float32"]
    assert main(["export", f"run={run}", *copy, "overwrite=true"]) == 0
    assert main(["validate", f"run={run}"]) == 0
    found = metrics(run)["exports"]
    assert set(found) == {"compressed_tensors", "dequantized"}
    assert {name: set(export["engines"]) for name, export in found.items()} == {
        "compressed_tensors": {"transformers"},
        "dequantized": {"transformers"},
    }
    shutil.rmtree(run / "exports" / "compressed_tensors")
    assert main(["validate", f"run={run}", "engine=[]"]) == 0
    assert "does not exist" in error_of(capsys, "validate", f"run={run}", "export=compressed_tensors")


def test_an_engine_that_is_not_there_fails_nothing_and_passes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path / "nowhere"))
    assert main(["validate", f"run={run}", "engine=vllm"]) == 0
    engine = metrics(run)["exports"]["compressed_tensors"]["engines"]["vllm"]
    assert (engine["status"], engine["loss"]) == ("not_available", None)
    assert "not available: not installed: scripts/engines.sh vllm" in " ".join(capsys.readouterr().out.split())


def test_an_engine_that_fails_fails_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "exports" / "compressed_tensors" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"no_such_model"'))
    line = error_of(capsys, "validate", f"run={run}", code=1)
    assert "export compressed_tensors fails in transformers: transformers cannot load" in line
    assert metrics(run)["exports"]["compressed_tensors"]["engines"]["transformers"]["status"] == "failed"


@pytest.mark.parametrize("command", ["run", "validate", "ptq"])
def test_overwrite_is_for_export(run: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    words = [f"run={run}"] if command == "validate" else []
    line = error_of(capsys, command, *words, "overwrite=true")
    assert line.endswith(f"overwrite=true is not for qat {command}, but for qat allocate, export")


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x7F
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "damage", "what"),
    [
        ("model.safetensors", altered, "is damaged: its sha256 is not the manifest's"),
        ("model.safetensors", truncated, "is damaged: its sha256 is not the manifest's"),
        ("config.json", altered, "is damaged: its sha256 is not the manifest's"),
        ("tokenizer.json", Path.unlink, "is missing; quantize again"),
    ],
)
def test_a_damaged_checkpoint_is_named_by_its_file_and_nothing_changes(
    run: Path, capsys: pytest.CaptureFixture[str], file: str, damage: Callable[[Path], None], what: str
) -> None:
    damage(run / "quantized" / file)
    before = files(run)
    for command, words in (("export", ["overwrite=true"]), ("validate", []), ("evaluate", [])):
        assert f"{run / 'quantized' / file} {what}" in error_of(capsys, command, f"run={run}", *words)
    assert files(run) == before


@pytest.mark.parametrize("command", ["run", "train", "ptq"])
def test_a_format_that_cannot_hold_the_scheme_is_refused_before_anything_is_written(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = [*small, "scheme=w4a16_g32_asym", "export=[compressed_tensors,gguf]", f"run_dir={tmp_path / 'run'}"]
    line = error_of(capsys, command, *words)
    assert "error: export gguf: " in line
    assert "; formats that take it: " in line
    assert not (tmp_path / "run").exists()


def test_export_asks_every_format_before_it_writes_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    words = ["export=[compressed_tensors,gguf]", "overwrite=true"]
    assert "error: export gguf: " in error_of(capsys, "export", f"run={run}", *words)
    assert files(run) == before


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("run", ["~scheme"], "this run has no scheme, so nothing would be quantized; pick one with scheme=<name>"),
        ("ptq", ["~scheme"], "this run has no scheme"),
        ("train", ["~scheme", "+phase@schedule.x=fake_quant"], "a schedule needs a scheme"),
        ("run", ["loss=distill", "loss.teacher=tuned_float"], "set baseline.tuned_float=true"),
        ("run", ["trainer.block_size=1024"], "trainer.block_size=1024 is longer than the context of any-shrunk, 512"),
        ("run", ["+phase@schedule.x=float_warmup"], "the fake quantizers stay off for the whole run"),
        ("run", ["+phase@schedule.x=layerwise", "schedule.x.order=[1,0,2]"], "must name each of the model's 2 blocks"),
        ("run", ["scheme.config_groups.weights.targets=[Conv2d]"], "Conv2d"),
        ("run", ["scheme.config_groups.weights.weights.num_bits=9"], "num_bits"),
        ("run", ["scheme.config_groups.weights.weights.group_size=48"], "does not divide the 128 inputs of"),
        ("run", ["data.train=[nowhere.txt]"], "nowhere.txt"),
        ("run", ["rest_dtype=bfloat"], "rest_dtype=bfloat is not one of auto, float32, bfloat16, float16"),
        ("export", [], "qat export works on a finished run; name it with run=<run folder>"),
        ("validate", [], "qat validate works on a finished run; name it with run=<run folder>"),
    ],
)
def test_bad_input_writes_nothing(
    small: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: list[str],
    message: str,
) -> None:
    assert message in error_of(capsys, command, *small, *words, f"run_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_a_missed_promise_fails_the_run_after_everything_is_written(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["+expect.qat.loss.max=0.5", "export=[]", f"run_dir={folder}"]
    line = error_of(capsys, "run", *small, *words, code=1)
    assert line.startswith("qat: error: the result is not what the recipe promises: qat.loss is ")
    assert line.endswith(", promised is at most 0.5")
    assert metrics(folder)["qat"]["loss"] > 0.5


def test_a_changed_recipe_is_not_held_to_its_promise(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "recipes" / "mine" / "a.yaml").write_text("expect: {qat: {loss: {max: 0.5}}}\n")
    words = ["recipe=mine/a", "--recipes", str(tmp_path / "recipes"), "export=[]", f"run_dir={tmp_path / 'run'}"]
    assert main(["run", *small, *words]) == 0
    assert "expect: not checked, since the recipe was changed by model=hf" in capsys.readouterr().out
