"""scripts/engines.sh with a Python, a matrix and a demo that only say that they were run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv")
    case $4 in *"$BROKEN") echo "no such wheel" >&2; exit 1 ;; esac
    mkdir -p "$4/bin"
    cp "$0" "$4/bin/python"
    ;;
"../engine_matrix.py ") echo "matrix" ;;
esac
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the script and its locks in a repository of stubs."""
    shutil.copytree(SCRIPTS / "engines", tmp_path / "scripts/engines")
    shutil.copy(SCRIPTS / "engines.sh", tmp_path / "scripts")
    stubs = {".venv/bin/python": PYTHON, "scripts/setup.sh": "#!/bin/sh\n", "scripts/engine_demo.sh": "echo demo\n"}
    for name, text in stubs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
        path.chmod(0o755)
    return tmp_path


def run(copy: Path, *words: str, broken: str = "none") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"QAT_ENGINES": str(copy / "made"), "BROKEN": broken}
    command = ["bash", str(copy / "scripts/engines.sh"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def made(copy: Path) -> set[str]:
    return {path.parent.name for path in (copy / "made").glob("*/.installed")}


def test_every_environment_then_the_matrix_then_the_demo(copy: Path) -> None:
    result = run(copy)
    assert (result.returncode, result.stdout) == (0, "matrix\ndemo\n"), result.stderr
    assert made(copy) == {"llama_cpp", "vllm", "transformers_4_51", "gptqmodel"}


def test_one_that_cannot_be_made_stops_nothing_else(copy: Path) -> None:
    result = run(copy, broken="llama_cpp")
    assert (result.returncode, result.stdout) == (1, "matrix\ndemo\n"), result.stderr
    assert "no such wheel\nllama_cpp: could not be made; the error is above\n" in result.stderr
    assert result.stderr.endswith(
        "could not be made: llama_cpp; see the error of one again with: scripts/engines.sh <name>\n"
    )
    assert made(copy) == {"vllm", "transformers_4_51", "gptqmodel"}


def test_a_name_makes_that_one_only(copy: Path) -> None:
    for said in (["vllm: making", "vllm: ready in"], ["vllm: ready in"]):
        result = run(copy, "vllm")
        assert (result.returncode, made(copy)) == (0, {"vllm"})
        assert [line.partition(f" {copy}")[0] for line in result.stderr.splitlines()] == said
    result = run(copy, "vlllm")
    assert result.returncode == 2
    assert "there is no environment 'vlllm'; there are: llama_cpp" in result.stderr


def test_what_is_no_engine_is_made_when_named(copy: Path) -> None:
    result = run(copy, "auto_round", "llmcompressor")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert made(copy) == {"auto_round", "llmcompressor"}
