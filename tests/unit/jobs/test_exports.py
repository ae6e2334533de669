"""Which exports a run refuses, and where it scores them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import VOCABULARY, random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.config.run_folder import RunFolder
from qat.errors import RunError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.jobs.stages import exports
from qat.prepare import prepare
from qat.scheme import preset

TOKENS = torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
ENGINE = {"_target_": "qat.engines.transformers.TransformersEngine"}
FORMAT = {"_target_": "qat.export.compressed_tensors.CompressedTensorsExporter"}


def frozen(scheme: str) -> QuantizedCheckpoint:
    model = random_llama()
    prepare(model, preset(scheme))
    return QuantizedCheckpoint.freeze(model, preset(scheme))


def evaluation(device: str = "cpu") -> Any:
    """As much of an Evaluation as is asked for; the score itself is tested elsewhere."""
    inputs = SimpleNamespace(device=torch.device(device), loaded=SimpleNamespace(task="causal_lm"))
    score = SimpleNamespace(loss=1.5, perplexity=4.5)
    return SimpleNamespace(inputs=inputs, blocks=[{"input_ids": row} for row in TOKENS], score=lambda *_: score)


def folder_of(path: Path) -> RunFolder:
    return RunFolder("validate", path, {}, [])


def validate(
    folder: Path, checkpoint: QuantizedCheckpoint, engine: dict[str, Any] | None = ENGINE, device: str = "cpu"
) -> exports.Validation:
    run: Any = SimpleNamespace(export={"packed": FORMAT}, engine=engine)
    return exports.validate(run, folder_of(folder), checkpoint, evaluation(device))


def written(checkpoint: QuantizedCheckpoint, folder: Path, norm: float = 1.0) -> QuantizedCheckpoint:
    """An export whose integers are right; ``norm`` scales the final norm, so that the logits are not."""
    directory = folder / "exports" / "packed"
    CompressedTensorsExporter().write(checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] *= norm
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


@pytest.mark.parametrize("scheme", ["w4a16_g32", "w8a8"])
def test_a_true_export_passes(tmp_path: Path, scheme: str) -> None:
    validation = validate(tmp_path, written(frozen(scheme), tmp_path))
    exports.refuse_mismatch(validation, folder_of(tmp_path))
    result = validation.results["packed"]
    assert (result.mismatched_codes, result.mismatched_zero_points, result.mismatched_scales) == (0, 0, 0)
    assert result.max_logit_difference is not None and result.max_logit_difference <= 1e-4
    assert (result.loss, result.perplexity) == (1.5, 4.5)


def test_other_logits_fail_a_weight_only_export_in_float32(tmp_path: Path) -> None:
    validation = validate(tmp_path, written(frozen("w4a16_g32"), tmp_path, norm=1.01))
    difference = validation.results["packed"].max_logit_difference
    assert difference is not None and difference > 1e-4
    message = f"export packed has other logits .* in transformers .*float32.*: they differ by {difference:.2g}, and"
    with pytest.raises(RunError, match=f"{message} at most 0.0001 .*; do not use {tmp_path / 'exports' / 'packed'}"):
        exports.refuse_mismatch(validation, folder_of(tmp_path))


@pytest.mark.parametrize(
    ("scheme", "engine"),
    [("w8a8", ENGINE), ("w4a16_g32", ENGINE | {"dtype": "bfloat16"}), ("w4a16_g32", None)],
    ids=["activations", "bfloat16", "no engine"],
)
def test_other_logits_are_only_reported_elsewhere(tmp_path: Path, scheme: str, engine: dict[str, Any] | None) -> None:
    validation = validate(tmp_path, written(frozen(scheme), tmp_path, norm=1.01), engine)
    difference = validation.results["packed"].max_logit_difference
    assert (difference is None) if engine is None else (difference is not None and difference > 1e-4)
    exports.refuse_mismatch(validation, folder_of(tmp_path))


def test_other_numbers_and_modules_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = written(frozen("w4a16_g32"), tmp_path)
    read = dict(CompressedTensorsExporter().read(tmp_path / "exports" / "packed"))
    read["model.layers.7.self_attn.q_proj"] = read.pop("model.layers.0.self_attn.q_proj")
    read["model.layers.0.self_attn.k_proj"].weight.codes[0, 0] ^= 1
    monkeypatch.setattr(CompressedTensorsExporter, "read", lambda *_: read)
    q_proj = 2 * 64 * 64
    with pytest.raises(RunError) as raised:
        exports.refuse_mismatch(validate(tmp_path, checkpoint, engine=None), folder_of(tmp_path))
    assert str(raised.value) == (
        f"export packed is not the quantized checkpoint: {q_proj + 1} codes, 0 zero points and {q_proj // 32} scales "
        "differ; it lacks model.layers.0.self_attn.q_proj; it has one too many: model.layers.7.self_attn.q_proj; "
        f"do not use {tmp_path / 'exports' / 'packed'}"
    )


def test_engine_and_fake_quantized_model_are_on_the_device_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def compare(model: torch.nn.Module, logits: Any, tokens: torch.Tensor) -> float:
        devices.extend([next(model.parameters()).device.type, logits(tokens.to("meta")).device.type])
        return 0.0

    monkeypatch.setattr(exports, "max_logit_difference", compare)
    validate(tmp_path, written(frozen("w4a16_g32"), tmp_path), device="meta")
    assert devices == ["meta", "meta"]
