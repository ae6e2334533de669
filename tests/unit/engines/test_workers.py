"""The scripts of foreign environments: they must start where qat is not installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from qat.engines import workers

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
