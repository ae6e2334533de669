"""Engines in environments of their own: why one is absent, and, where it is there, that it computes the export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qat.engines import foreign as module
from qat.engines.base import NotAvailable
from qat.engines.isolated import Isolated
from qat.engines.llama_cpp import LlamaCppEngine
from qat.engines.vllm import VllmEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.dequantized import DequantizedExporter
from qat.export.gguf import GgufExporter
from qat.export.gptq import GptqExporter
from qat.models.tokenizer import load_tokenizer
from qat.restore import restore
from qat.scheme import Scheme, preset

PROMPT = [5, 60, 700, 8]
TEXT = "def main(argv):\n    return 1234"


def greedily(checkpoint, count: int) -> list[int]:
    model, ids = restore(checkpoint), list(PROMPT)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


def losses(checkpoint, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        log_probabilities = restore(checkpoint)(tokens).logits.log_softmax(-1)
    return -log_probabilities[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


def test_why_an_engine_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path))
    engine = VllmEngine()
    assert engine.missing() == "not installed: scripts/engines.sh vllm"
    python = tmp_path / "vllm/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert engine.missing() == f"its environment {tmp_path}/vllm has no package vllm: scripts/engines.sh vllm"
    package = tmp_path / "vllm/lib/python3.11/site-packages/vllm/__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    monkeypatch.setattr(module, "processor_flags", lambda: frozenset({"sse4_2"}))
    assert "lacks avx2" in engine.missing()
    monkeypatch.setattr(module, "processor_flags", lambda: frozenset({"sse4_2", "avx2"}))
    assert engine.missing() is None


def test_threads_are_those_of_this_process() -> None:
    assert LlamaCppEngine().launch("cpu").options["threads"] == torch.get_num_threads()
    assert LlamaCppEngine(threads=3).launch("cpu").options["threads"] == 3


@pytest.mark.slow
def test_llama_cpp(foreign, frozen, exported, tokens: Tensor) -> None:
    engine = foreign("llama_cpp", context=64)
    checkpoint = frozen(Scheme(**preset("w8a16").to_dict() | {"scale_format": "fp16"}))
    directory = exported(GgufExporter(rest="f32"), checkpoint)
    engine.load(directory)
    assert engine.description.startswith("llama.cpp (llama-cpp-python ") and engine.dtype != "float32"
    # It rounds the input of every matrix to INT8 in blocks of 32.
    assert max_logit_difference(engine.logits, restore(checkpoint), tokens) < 0.1
    assert engine.continue_greedily(PROMPT, 6) == greedily(checkpoint, 6)
    assert engine.tokenize(TEXT) == load_tokenizer(directory)(TEXT)["input_ids"]
    with pytest.raises(InputError, match="65 tokens do not fit the context of 64"):
        engine.logits(torch.zeros(1, 65, dtype=torch.int64))
    (directory / "model.gguf").write_bytes(b"not a GGUF file")
    with pytest.raises(InputError, match=f"llama_cpp cannot load {directory}|{directory}/model.gguf"):
        engine.load(directory)


@pytest.mark.slow
def test_vllm(foreign, frozen, exported) -> None:
    checkpoint = frozen(preset("w4a16_g32"), hidden_size=128)  # its attention has no head size below 32
    tokens = torch.randint(1024, (2, 64), generator=torch.Generator().manual_seed(0))  # the whole context
    engine = foreign("vllm")
    engine.load(exported(DequantizedExporter(dtype="float32"), checkpoint))
    assert engine.description.startswith("vllm ") and engine.dtype == "float32" and engine.normalised
    logits = engine.logits(tokens)
    with torch.no_grad():
        expected = restore(checkpoint)(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(engine.token_losses(tokens), losses(checkpoint, tokens), rtol=0, atol=1e-4)
    assert engine.continue_greedily(PROMPT, 6) == greedily(checkpoint, 6)
    with pytest.raises(InputError, match="65 tokens do not fit the context of 64"):
        engine.continue_greedily(tokens[0].tolist(), 1)


@pytest.mark.slow
def test_vllm_multiplies_integers(foreign, frozen, exported, tokens: Tensor) -> None:
    checkpoint = frozen(preset("w8a8"), hidden_size=128)
    engine = foreign("vllm")
    engine.load(exported(CompressedTensorsExporter(), checkpoint))
    # An input may fall to either side of a rounding border.
    assert (engine.token_losses(tokens) - losses(checkpoint, tokens)).abs().mean() < 0.1
    assert engine.continue_greedily(PROMPT, 6) == greedily(checkpoint, 6)


@pytest.mark.slow
def test_vllm_says_that_it_has_no_kernel(foreign, frozen, exported) -> None:
    engine = foreign("vllm")
    directory = exported(CompressedTensorsExporter(), frozen(preset("w3a16_channel"), hidden_size=128))
    with pytest.raises(
        NotAvailable, match=f"vllm cannot load {directory}: no kernel for this processor .*Failed to find"
    ):
        engine.load(directory)


@pytest.mark.slow
def test_transformers_4_51(foreign, frozen, exported, tokens: Tensor) -> None:
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    checkpoint = frozen(preset("w4a16_g32"), rope_parameters=rope)
    directory = exported(DequantizedExporter(dtype="float32", dialect="transformers_4_51"), checkpoint)
    engine = Isolated({"_target_": "qat.engines.transformers_4_51.Transformers451Engine"})
    foreign("transformers_4_51")  # skips where it is absent
    with engine:
        engine.load(directory)
        assert engine.description.startswith("transformers 4.51.3 (float32") and engine.dtype == "float32"
        assert max_logit_difference(engine.logits, restore(checkpoint), tokens) <= 1e-5
        torch.testing.assert_close(engine.token_losses(tokens), losses(checkpoint, tokens), rtol=0, atol=1e-5)
        assert engine.continue_greedily(PROMPT, 6) == greedily(checkpoint, 6)
        for name, entry in checkpoint.weights.items():
            assert torch.equal(engine.weight(name), entry.grid.value())
        assert engine.ask("tokenize", text=TEXT) == load_tokenizer(directory)(TEXT)["input_ids"]
        with pytest.raises(InputError, match="chat"):
            engine.ask("chat", messages=[{"role": "user", "content": "hello"}])  # the tokenizer has no template
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
        dialect = "not in its dialect; export with export.dequantized.dialect=transformers_4_51"
        with pytest.raises(NotAvailable, match=dialect):
            engine.load(directory)


@pytest.mark.slow
def test_gptqmodel(foreign, frozen, exported, tokens: Tensor) -> None:
    engine = foreign("gptqmodel")
    checkpoint = frozen(Scheme(**preset("w4a16_g32").to_dict() | {"scale_format": "fp16"}))
    engine.load(exported(GptqExporter(), checkpoint))
    assert engine.description.startswith("gptqmodel ") and engine.dtype == "float16"
    for name, entry in checkpoint.weights.items():
        assert torch.equal(engine.weight(name), entry.grid.value().half().float())
    assert max_logit_difference(engine.logits, restore(checkpoint), tokens) < 0.1  # it multiplies in float16
    assert engine.continue_greedily(PROMPT, 6) == greedily(checkpoint, 6)
