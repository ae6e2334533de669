"""The model that ships with the package is what its card says, and its recipe makes it."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import rows

from qat.data.python_stdlib import PythonStdlib
from qat.models import tiny_llama

pytestmark = pytest.mark.slow

Qat = Any
FIRST_POINT = 10
# qat, but it gets a Ctrl-C in the tenth step, which is finished and saved. The rates are those of the whole run.
STOPPED = f"""\
import os, signal, sys
from qat.cli.main import main
from qat.training.module import QATModule

train = QATModule.training_step

def training_step(self, batch, batch_idx):
    if batch_idx == {FIRST_POINT - 1}:
        os.kill(os.getpid(), signal.SIGINT)
    return train(self, batch, batch_idx)

QATModule.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny_llama.directory() / "card.json").read_text())
    return found


@pytest.fixture(scope="module")
def same_text(card: dict[str, Any]) -> bool:
    """Whether this Python's standard library is the one that the base was trained on."""
    return bool(PythonStdlib().describe()["corpus_sha256"] == card["corpus_sha256"])


def test_the_shipped_file_is_what_was_promised(card: dict[str, Any]) -> None:
    """0.5 to 1.5 million parameters, at least 25 tokens each, bfloat16, at most 3 MB, at most 1024 tokens."""
    folder = tiny_llama.directory()
    tensors = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert sum(tensor.numel() for tensor in tensors.values()) == card["parameters"]
    assert 0.5e6 <= card["parameters"] <= 1.5e6
    assert card["tokens"] >= 25 * card["parameters"]
    assert (folder / "model.safetensors").stat().st_size <= 3e6
    loaded = tiny_llama.load()
    assert len(loaded.tokenizer) <= 1024
    assert loaded.model.config.tie_word_embeddings
    assert loaded.model.config.num_key_value_heads < loaded.model.config.num_attention_heads
    assert (folder / "README.md").is_file()


def test_evaluate_finds_the_loss_of_the_card(qat: Qat, card: dict[str, Any], same_text: bool, tmp_path: Path) -> None:
    words = ["model=tiny_llama", "data=python_stdlib", *qat.one_thread]
    outcome = qat("evaluate", *words, "run_dir=run", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    # Another Python has another standard library, so other text in the test split.
    tolerance = 1e-3 if same_text else 0.1
    print(f"test loss {found['float']['loss']:.4f}, card {card['test_loss']}, allowed difference {tolerance}")
    assert found["float"]["loss"] == pytest.approx(card["test_loss"], abs=tolerance)
    assert found["data"]["python"] == platform.python_version()
    assert (found["data"]["corpus_sha256"] == card["corpus_sha256"]) == same_text


def test_rebuilding_it_follows_the_curve_of_the_card(
    qat: Qat, card: dict[str, Any], same_text: bool, tmp_path: Path
) -> None:
    if not same_text:
        pytest.skip(f"the base was trained on the standard library of Python {card['python']}, which is not this one")
    assert card["command"] == "qat train recipe=demo/base"
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    outcome = qat.process("train", "recipe=demo/base", "run_dir=run", "trainer.device=cpu", cwd=tmp_path, script=script)
    assert outcome.code == 130, outcome.err
    assert f"interrupted after step {FIRST_POINT} of {card['steps']}" in outcome.err
    losses = {int(row["step"]): float(row["train/loss"]) for row in rows(tmp_path / "run")}
    assert losses[FIRST_POINT] == pytest.approx(dict(card["train_curve"])[FIRST_POINT], abs=0.02)
