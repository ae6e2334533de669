"""The scripts of foreign environments: they must start where qat is not installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from qat.engines import workers
from qat.engines.workers import worker_protocol

FOLDER = Path(workers.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*_worker.py"))
ALLOWED = {
    "llama_cpp_worker": {"llama_cpp"},
    "vllm_worker": {"vllm", "torch"},
    "transformers_4_51_worker": {"transformers", "torch"},
    "gptqmodel_worker": {"gptqmodel", "torch"},
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", [*SCRIPTS, FOLDER / "worker_protocol.py"], ids=lambda path: path.stem)
def test_a_script_imports_its_engine_only(path: Path) -> None:
    allowed = {"numpy", "worker_protocol"} | ALLOWED.get(path.stem, set())
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
