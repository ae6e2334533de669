"""Which exports a run refuses to write, and which it fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import VOCABULARY, random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.config.compose import component
from qat.config.run_folder import RunFolder
from qat.errors import InputError, RunError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.jobs.stages import exports
from qat.prepare import prepare
from qat.scheme import preset

TOKENS = torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
ENGINE = {"_target_": "qat.engines.transformers.TransformersEngine"}
NAME = "compressed_tensors"
FORMAT = {"_target_": "qat.export.compressed_tensors.CompressedTensorsExporter"}


def frozen(scheme: str) -> QuantizedCheckpoint:
    model = random_llama()
    prepare(model, preset(scheme))
    return QuantizedCheckpoint.freeze(model, preset(scheme))


def evaluation() -> Any:
    """As much of an Evaluation as is asked for; the score itself is tested elsewhere."""
    inputs = SimpleNamespace(device=torch.device("cpu"), loaded=SimpleNamespace(task="causal_lm"))
    return SimpleNamespace(
        inputs=inputs,
        blocks=[{"input_ids": row} for row in TOKENS],
        engine_loss=lambda _: 1.5,
        score=lambda *_: SimpleNamespace(loss=1.5),
    )


def folder_of(path: Path) -> RunFolder:
    return RunFolder("validate", path, {}, [])


def run_of(**fields: Any) -> Any:
    return SimpleNamespace(**{"export": {NAME: FORMAT}, "engine": {"transformers": ENGINE}} | fields)


def validate(folder: Path, checkpoint: QuantizedCheckpoint, **fields: Any) -> exports.Validation:
    return exports.validate(run_of(**fields), folder_of(folder), checkpoint, evaluation())


def written(checkpoint: QuantizedCheckpoint, folder: Path, norm: float = 1.0) -> QuantizedCheckpoint:
    """An export whose integers are right; ``norm`` scales the final norm, so that the logits are not."""
    directory = folder / "exports" / NAME
    CompressedTensorsExporter().write(checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] *= norm
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


@pytest.mark.parametrize("scheme", ["w4a16_g32", "w8a8"])
def test_a_true_export_passes(tmp_path: Path, scheme: str) -> None:
    validation = validate(tmp_path, written(frozen(scheme), tmp_path))
    exports.refuse_mismatch(validation, folder_of(tmp_path))
    result = validation.results[NAME]
    assert (result.mismatched_codes, result.mismatched_zero_points, result.mismatched_scales) == (0, 0, 0)
    assert result.max_logit_difference is not None and result.max_logit_difference <= 1e-4
    assert (result.loss, result.perplexity) == (1.5, pytest.approx(4.4817, abs=1e-4))
    engine = result.engines["transformers"]
    assert engine.status == "ok"
    assert engine.description == result.engine
    assert engine.max_logit_difference == result.max_logit_difference


def test_every_chosen_engine_that_knows_the_format_loads_the_export(tmp_path: Path) -> None:
    """The first that loaded it is the one whose numbers stand for the export."""
    engines = {
        "vllm": {"_target_": "qat.engines.vllm.VllmEngine"},
        "onnxruntime": {"_target_": "qat.engines.onnxruntime.OnnxRuntimeEngine"},
        "half": ENGINE | {"dtype": "bfloat16"},
        "full": ENGINE,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAT_ENGINES", str(tmp_path / "nothing installed"))
        validation = validate(tmp_path, written(frozen("w4a16_g32"), tmp_path), engine=engines)
    exports.refuse_mismatch(validation, folder_of(tmp_path))
    result = validation.results[NAME]
    assert list(result.engines) == ["vllm", "half", "full"]
    assert result.engines["vllm"].status == "not_available"
    assert result.engines["vllm"].reason == "not installed: scripts/engines.sh vllm"
    assert result.engines["half"].status == result.engines["full"].status == "ok"
    assert result.engine == result.engines["half"].description
    assert "bfloat16" in result.engine


def test_other_logits_fail_a_weight_only_export_in_float32(tmp_path: Path) -> None:
    validation = validate(tmp_path, written(frozen("w4a16_g32"), tmp_path, norm=1.01))
    difference = validation.results[NAME].max_logit_difference
    assert difference is not None and difference > 1e-4
    assert validation.results[NAME].engines["transformers"].status == "failed"
    message = f"fails in transformers: transformers .*float32.* has other logits .*: they differ by {difference:.2g},"
    with pytest.raises(RunError, match=f"{message} and at most 0.0001 .*; do not use {tmp_path / 'exports' / NAME}"):
        exports.refuse_mismatch(validation, folder_of(tmp_path))


def test_an_engine_that_fails_fails_the_export(tmp_path: Path) -> None:
    checkpoint = written(frozen("w4a16_g32"), tmp_path)
    config = tmp_path / "exports" / NAME / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"no_such_model"'))
    validation = validate(tmp_path, checkpoint)
    result = validation.results[NAME]
    assert result.engines["transformers"].status == "failed"
    assert (result.engine, result.loss, result.mismatches) == (None, None, 0)
    with pytest.raises(RunError, match=f"export {NAME} fails in transformers: transformers cannot load .*; do not use"):
        exports.refuse_mismatch(validation, folder_of(tmp_path))


def test_an_export_that_cannot_be_read_leaves_the_others_checked(tmp_path: Path) -> None:
    checkpoint = written(frozen("w8a8"), tmp_path)
    empty = tmp_path / "exports" / "dequantized"
    empty.mkdir()
    both = {"dequantized": component("export", "dequantized"), NAME: FORMAT}
    validation = validate(tmp_path, checkpoint, export=both)
    assert validation.unread == ["dequantized"]
    assert list(validation.results) == [NAME]
    assert validation.results[NAME].engines["transformers"].status == "ok"
    with pytest.raises(RunError, match=f"^export dequantized cannot be read: .*; do not use {empty}$"):
        exports.refuse_mismatch(validation, folder_of(tmp_path))
    with pytest.raises(InputError, match="gptq does not exist; write it with: qat export run=.* export=gptq"):
        validate(tmp_path, checkpoint, export=both | {"gptq": component("export", "gptq")})


def test_without_engines_only_the_numbers_are_compared(tmp_path: Path) -> None:
    validation = validate(tmp_path, written(frozen("w4a16_g32"), tmp_path, norm=1.01), engine={})
    assert validation.results[NAME].engines == {}
    assert validation.results[NAME].max_logit_difference is None
    exports.refuse_mismatch(validation, folder_of(tmp_path))


def test_other_numbers_and_modules_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = written(frozen("w4a16_g32"), tmp_path)
    read = dict(CompressedTensorsExporter().read(tmp_path / "exports" / NAME))
    read["model.layers.7.self_attn.q_proj"] = read.pop("model.layers.0.self_attn.q_proj")
    read["model.layers.0.self_attn.k_proj"].weight.codes[0, 0] ^= 1
    monkeypatch.setattr(CompressedTensorsExporter, "read", lambda *_: read)
    q_proj = 2 * 64 * 64
    with pytest.raises(RunError) as raised:
        exports.refuse_mismatch(validate(tmp_path, checkpoint, engine={}), folder_of(tmp_path))
    assert str(raised.value) == (
        f"export {NAME} is not the quantized checkpoint: {q_proj + 1} codes, 0 zero points and {q_proj // 32} scales "
        "differ; it lacks model.layers.0.self_attn.q_proj; it has one too many: model.layers.7.self_attn.q_proj; "
        f"do not use {tmp_path / 'exports' / NAME}"
    )


@pytest.mark.parametrize(("scheme", "reason", "takers"), [
    ("w2a16_g32_asym", "no zero point", "compressed_tensors, dequantized, gptq, onnx, torchao"),
    ("w4a8_g32", "accept the engine's rounding with export.gguf.activations=engine",
     "compressed_tensors, dequantized (weights only), onnx"),
    ("w8a8", "accept the engine's rounding with export.gguf.activations=engine", "compressed_tensors, onnx, torchao"),
])  # fmt: skip
def test_a_refusal_names_once_the_formats_that_take_the_checkpoint(scheme: str, reason: str, takers: str) -> None:
    checkpoint = frozen(scheme)
    picked = exports.exporters(run_of(export={"gguf": component("export", "gguf")}))
    with pytest.raises(InputError) as raised:
        exports.refuse_unfit(picked, checkpoint)
    before, separator, listed = str(raised.value).partition("; formats that take it: ")
    assert before.startswith("export gguf: gguf cannot hold ") and before.endswith(reason)
    assert (separator, listed) == ("; formats that take it: ", takers)
    exports.refuse_unfit(exports.exporters(run_of()), checkpoint)


def test_a_refusal_without_any_other_format_says_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "choices", lambda _: {"gguf": None})
    picked = exports.exporters(run_of(export={"gguf": component("export", "gguf")}))
    with pytest.raises(InputError) as raised:
        exports.refuse_unfit(picked, frozen("w2a16_g32_asym"))
    assert "formats that take it" not in str(raised.value)


def test_the_exports_in_a_folder_keep_the_options_of_the_run(tmp_path: Path) -> None:
    for name in (NAME, "gguf", ".gguf.host.1.tmp"):
        (tmp_path / "exports" / name).mkdir(parents=True)
    (tmp_path / "exports" / "notes.txt").write_text("")
    mine = FORMAT | {"max_shard_size": "1GB"}
    found = exports.in_folder(run_of(export={NAME: mine}), folder_of(tmp_path))
    assert found == {NAME: mine, "gguf": component("export", "gguf")}


@pytest.mark.parametrize(
    ("name", "message"),
    [(None, "has no export; write one with"), ("ggufs", "is of no known format; did you mean 'gguf'")],
)
def test_a_folder_without_exports_of_known_formats(tmp_path: Path, name: str | None, message: str) -> None:
    if name is not None:
        (tmp_path / "exports" / name).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        exports.in_folder(run_of(), folder_of(tmp_path))
