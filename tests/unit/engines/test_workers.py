"""The scripts of foreign environments: they must start where qat is not installed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import random_llama
from transformers import GPT2Config, GPT2LMHeadModel

from qat.engines import workers
from qat.engines.workers import worker_causal_lm, worker_protocol
from qat.rest import stop_tokens

FOLDER = Path(workers.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*_worker.py"))
SHARED = sorted(FOLDER.glob("worker_*.py"))
ALLOWED = {
    "llama_cpp_worker": {"llama_cpp"},
    "vllm_worker": {"vllm", "torch"},
    "transformers_4_51_worker": {"transformers", "torch"},
    "gptqmodel_worker": {"gptqmodel", "torch"},
}
ALLOWED_SHARED: dict[str, set[str]] = {"worker_protocol": set(), "worker_causal_lm": {"torch"}}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", [*SCRIPTS, *SHARED], ids=lambda path: path.stem)
def test_a_script_imports_its_engine_only(path: Path) -> None:
    allowed = (ALLOWED | ALLOWED_SHARED)[path.stem] | {"numpy"} | (ALLOWED_SHARED.keys() if path in SCRIPTS else set())
    assert imported(path) - set(sys.stdlib_module_names) <= allowed


def test_every_engine_has_its_script_and_no_script_hides_a_module() -> None:
    assert {path.stem for path in SCRIPTS} == set(ALLOWED)
    modules = {*sys.stdlib_module_names, "numpy", "torch"}.union(*ALLOWED.values())
    assert not modules & {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def vllm_worker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, without vLLM."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "worker_protocol", worker_protocol)
    spec = importlib.util.spec_from_file_location("a_vllm_worker", FOLDER / "vllm_worker.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("Failed to find a kernel that", "no kernel for this processor (CPU AVX2): Failed to find a kernel that"),
        ("Unsupported quantization config: x", "vLLM has no support for this: Unsupported quantization config: x"),
        (
            "Currently supported kv cache quantization is num_bits=8, type=float",
            "vLLM has no support for this: Currently supported kv cache quantization is num_bits=8, type=float",
        ),
        (
            "No compressed-tensors compatible scheme was found for layer_name='q'",
            "vLLM has no support for this: No compressed-tensors compatible scheme was found for layer_name='q'",
        ),
        (
            "There is no module or parameter named 'embed_tokens.weight_packed' in LlamaModel.",
            "vLLM has no support for this: There is no module or parameter named 'embed_tokens.weight_packed' in "
            "LlamaModel.",
        ),
        ("There is no module or parameter named 'layers.0.weight_packed' in LlamaModel.", None),
        ("KeyError: 'model.norm'", None),
    ],
)
def test_what_vllm_lacks_is_named_as_that(vllm_worker: ModuleType, error: str, told: str | None) -> None:
    assert vllm_worker._absent(error, "CPU AVX2") == told


def test_vllm_refuses_the_logits_of_a_large_vocabulary(vllm_worker: ModuleType) -> None:
    config = SimpleNamespace(get_vocab_size=lambda: 16385)
    vllm_worker._llm, vllm_worker._context = SimpleNamespace(llm_engine=SimpleNamespace(model_config=config)), 8
    with pytest.raises(worker_protocol.NoLogits, match=r"over 16385 tokens \(at most 16384 here\)"):
        vllm_worker.logits(np.zeros((1, 8), np.int64))
    with pytest.raises(ValueError, match="9 tokens do not fit the context of 8"):
        vllm_worker.logits(np.zeros((1, 9), np.int64))


@pytest.mark.parametrize("generation", [None, {}, {"eos_token_id": 7}, {"eos_token_id": [7, 9]}])
def test_vllm_stops_where_qat_does(vllm_worker: ModuleType, tmp_path: Path, generation: dict[str, Any] | None) -> None:
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    for config in ({}, {"eos_token_id": 5}):
        assert vllm_worker._stop_tokens(tmp_path, config) == stop_tokens(config, generation)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_causal_lm_answers_as_its_model_does(kind: str) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 100, "eos_token_id": None}
    model = random_llama(eos_token_id=None) if kind == "llama" else GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    held = worker_causal_lm.CausalLM()
    held.model = model
    tokens = np.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert np.array_equal(held.logits(tokens), model(torch.from_numpy(tokens)).logits.numpy())
    made = held.continue_greedily(tokens[0], 8)
    ids = tokens[0].tolist()
    for _ in range(8):
        ids.append(int(held.logits(np.array([ids]))[0, -1].argmax()))
    assert made == ids[6:]
    model.generation_config.eos_token_id = made[2]
    assert held.continue_greedily(tokens[0], 8) == made[: made.index(made[2]) + 1]
    name = "model.layers.0.mlp.up_proj" if kind == "llama" else "transformer.h.0.mlp.c_fc"
    weight = dict(model.named_parameters())[f"{name}.weight"]
    assert np.array_equal(held.weight(name), (weight if kind == "llama" else weight.t()).detach().numpy())
