"""``qat ptq stream=true``: the bits of ``qat ptq`` in memory, taken up where it was interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import copy_tokenizer, error_of, random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.cli.main import main
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.ptq.gptq import GPTQ

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded bfloat16 Llama whose vocabulary is the tokenizer's."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    random_llama(vocab_size=1024, max_position_embeddings=128).to(torch.bfloat16).save_pretrained(
        folder, max_shard_size="100KB"
    )
    copy_tokenizer(folder)
    return folder


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    return ["ptq", "model=hf", f"model.path={model}", "stream=true", f"run_dir={tmp_path / 'run'}"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_files_are_those_of_a_run_in_memory(
    words: list[str], text_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert "not scored: stream=true" in " ".join(capsys.readouterr().out.split())
    here = ["trainer.block_size=32", "trainer.device=cpu", "evaluate.blocks=2", "engine=[]", "stream=false"]
    assert main([*words, *text_words, *here, f"run_dir={tmp_path / 'whole'}"]) == 0
    for part in ("quantized", "exports/compressed_tensors"):
        streamed, whole = tmp_path / "run" / part, tmp_path / "whole" / part
        assert names(streamed) == names(whole)
        for name in names(whole):
            assert (streamed / name).read_bytes() == (whole / name).read_bytes(), name
    found: dict[str, Any] = json.loads((tmp_path / "run" / "metrics.json").read_text())
    kept = {"engine": None, "loss": None, "mismatched_codes": 0, "mismatched_scales": 0, "engines": {}}
    assert found["exports"]["compressed_tensors"].items() >= kept.items()
    assert found["unmeasured"].startswith("stream=true: the model was never in memory")
    assert (found["float"], found["ptq"]["rtn_mse"]["loss"]) == (None, None)
    assert found["ptq"]["rtn_mse"]["bytes"] > 0
    assert main(["export", f"run={tmp_path / 'run'}", "export=dequantized", "export.dequantized.dtype=float32"]) == 0


def test_a_validated_run_is_not_called_unmeasured(
    words: list[str], text_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*words, *text_words, "trainer.block_size=32", "trainer.device=cpu", "evaluate.blocks=2"]) == 0
    assert "PTQ" not in capsys.readouterr().out, "a table of scores without a score"
    assert main(["validate", f"run={run}", "engine=[]"]) == 0
    assert json.loads((run / "metrics.json").read_text())["unmeasured"] is not None
    assert main(["validate", f"run={run}"]) == 0
    found = json.loads((run / "metrics.json").read_text())
    assert (found["unmeasured"], found["exports"]["compressed_tensors"]["loss"] is None) == (None, False)
    assert "not scored" not in capsys.readouterr().out


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Stop in the middle of the third tensor, as Ctrl-C would."""
    original = getattr(owner, name)

    def stopping(self: Any, *args: Any, **options: Any) -> Iterator[Any]:
        for number, item in enumerate(original(self, *args, **options)):
            if number == 3 and options.get("numbers", True):
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize("during", ["save", "export"])
def test_an_interrupted_run_is_resumed_without_making_anything_twice(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    during: str,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, QuantizedCheckpoint if during == "save" else CompressedTensorsExporter, "_tensors")
        line = error_of(capsys, *words, code=130)
    assert line == f"qat: interrupted; resume with: qat ptq resume={run}"
    assert [name for name in names(run) if not name.startswith(".")] == ([] if during == "save" else ["quantized"])
    before = {path: path.stat().st_mtime_ns for path in run.glob("quantized/*")}
    assert main(["ptq", f"resume={run}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((run / "metrics.json").read_text())["exports"]["compressed_tensors"]["mismatched_codes"] == 0
    assert all(not name.endswith(".tmp") for name in [*names(run), *names(run / "exports")])


def test_a_finished_run_is_only_checked_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words) == 0
    monkeypatch.setattr(QuantizedCheckpoint, "save", None)
    monkeypatch.setattr(CompressedTensorsExporter, "write", None)
    assert main(["ptq", f"resume={tmp_path / 'run'}"]) == 0


@pytest.mark.usefixtures("one_code_differs")
def test_an_export_that_differs_fails_the_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, *words, code=1)
    assert "export compressed_tensors is not the quantized checkpoint: 1 codes" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model=tiny_llama", "~model.path"], "stream=true reads the files of a Hugging Face folder"),
        (["model.shrink=true"], "model.shrink=True is for a model in memory; leave it out with stream=true"),
        (["model.dtype=bfloat16"], "model.dtype=bfloat16 is for a model in memory"),
        (["model.path=/no/such/folder"], "no folder '/no/such/folder'"),
        (["scheme=w8a8_static"], "static activations, keys and values included, get their range from data"),
        (["~scheme"], "this run has no scheme"),
        (["export=gptq", "scheme=w8a8"], "export gptq: "),
        (["export=onnx"], "export onnx needs the whole model in memory; leave it out with stream=true"),
    ],
)
def test_bad_input_writes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    if more[0] == "model=tiny_llama":
        words, more = [word for word in words if not word.startswith("model")], more[:1]
    assert message in error_of(capsys, *words, *more)
    assert not (tmp_path / "run").exists()


def test_only_ptq_streams(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "stream=true is not for qat run, but for qat ptq" in error_of(capsys, "run", *words[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ptq=rtn", "was started with"),
        ("scheme=w8a16", "was started with"),
        ("stream=false", "qat ptq can only be resumed with stream=true"),
    ],
)
def test_a_resumed_run_stays_the_same(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    assert main([*words, "export=[]"]) == 0
    assert message in error_of(capsys, "ptq", f"resume={tmp_path / 'run'}", change)


@pytest.fixture
def blockwise(words: list[str], text_words: list[str]) -> list[str]:
    """GPTQ, which works block by block, with 4-bit codes and dynamic activations."""
    small = ["trainer.block_size=16", "trainer.batch_size=2", "trainer.device=cpu", "evaluate.blocks=2", "engine=[]"]
    return [*words, *text_words, *small, "ptq=gptq", "scheme=w4a8_channel", "calibration_batches=2"]


def stop_in_the_second_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C would, when two of its layers are done."""
    original, done = GPTQ.quantize_host, []

    def stopping(self: GPTQ, name: str, *rest: Any) -> None:
        done.append(name)
        if len(done) == 10:
            raise KeyboardInterrupt
        original(self, name, *rest)

    monkeypatch.setattr(GPTQ, "quantize_host", stopping)


def noting_layers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the layers that are quantized from now on."""
    original, seen = GPTQ.quantize_host, []

    def noting(self: GPTQ, name: str, *rest: Any) -> None:
        seen.append(name)
        original(self, name, *rest)

    monkeypatch.setattr(GPTQ, "quantize_host", noting)
    return seen


def test_block_by_block_has_the_files_of_a_run_in_memory_even_if_both_are_interrupted(
    blockwise: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"straight": ["stream=false"], "memory": ["stream=false"], "run": []}
    assert main([*blockwise, "stream=false", f"run_dir={tmp_path / 'straight'}"]) == 0
    for name in ("memory", "run"):
        run = tmp_path / name
        with monkeypatch.context() as patch:
            stop_in_the_second_block(patch)
            line = error_of(capsys, *blockwise, *runs[name], f"run_dir={run}", code=130)
        assert line == f"qat: interrupted; resume with: qat ptq resume={run}"
        assert [path.name for path in (run / "blocks").iterdir()] == ["model.layers.0"]
        with monkeypatch.context() as patch:
            again = noting_layers(patch)
            assert main(["ptq", f"resume={run}"]) == 0
        assert len(again) == 7 and all(host.startswith("model.layers.1.") for host in again)
        assert not (run / "blocks").exists()
        for part in ("quantized", "exports/compressed_tensors"):
            ours, whole = run / part, tmp_path / "straight" / part
            assert names(ours) == names(whole)
            for file in names(whole):
                assert (ours / file).read_bytes() == (whole / file).read_bytes(), file
    scored = json.loads((tmp_path / "memory" / "metrics.json").read_text())
    assert scored["ptq"]["gptq"]["loss"] > 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["ptq"]["gptq"]["loss"] is None


def test_a_run_without_blocks_is_resumed_with_stream_only(
    words: list[str], text_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["trainer.block_size=16", "trainer.device=cpu", "evaluate.blocks=2", "engine=[]", "export=[]"]
    assert main([*words, *text_words, *small, "stream=false"]) == 0
    assert "qat ptq can only be resumed with stream=true" in error_of(capsys, "ptq", f"resume={tmp_path / 'run'}")
    line = error_of(capsys, "ptq", f"resume={tmp_path / 'run'}", "stream=true")
    assert "stream=True but" in line and "was started with False; start a new run" in line


def test_block_by_block_needs_text_before_anything_is_written(
    blockwise: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "longer than the context" in error_of(capsys, *blockwise, "trainer.block_size=1000")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "export=[]"]) == 0
    with (tmp_path / "run" / "quantized" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert "model.safetensors is damaged" in error_of(capsys, "ptq", f"resume={tmp_path / 'run'}")


def test_a_missing_tokenizer_is_refused(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    assert "no tokenizer in" in error_of(capsys, *words, f"model.path={bare}")
    assert not (tmp_path / "run").exists()
