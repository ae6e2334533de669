"""The recipes for real, trained models on real text, for two steps; without the data they are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

Qat = Any


@pytest.fixture
def run(qat: Qat, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a recipe for two steps and return its ``metrics.json``."""
    monkeypatch.setenv("QAT_SHARED_DATA", str(shared_data))
    short = ["trainer.max_steps=2", "trainer.val_every=2", "trainer.val_blocks=4", "evaluate.max_new_tokens=4"]

    def run(recipe: str, *words: str) -> dict[str, Any]:
        outcome = qat("run", f"recipe={recipe}", *short, *qat.one_thread, *words, "run_dir=run", cwd=tmp_path)
        assert outcome.code == 0, outcome.err
        assert "expect: " not in outcome.out or "not checked, since the recipe was changed" in outcome.out
        found: dict[str, Any] = json.loads((tmp_path / "run" / "metrics.json").read_text())
        return found

    return run


def test_stories260k(run: Any, shared_data: Path) -> None:
    """Round-to-nearest costs it 0.16 nats at 4 bits a channel (shared/data/README.md); the training wins some back."""
    found = run("stories260k/w4a16_lsq", "evaluate.blocks=32")
    assert (found["model"], found["scheme"]) == ("stories260K", "w4a16_channel")
    stories = shared_data / "text" / "tinystories" / "truecased_valid.jsonl"
    expected = loss_by_hand(shared_data / "models" / "stories260K", stories, blocks=32, block_size=256)
    assert found["float"]["loss"] == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(1.60, abs=0.02)  # an EOS after each story, which it never saw, makes it 1.77
    assert found["ptq"]["rtn"]["loss"] - found["float"]["loss"] == pytest.approx(0.16, abs=0.08)
    assert found["ptq"]["rtn"]["of"] == found["qat"]["recovery_against"]
    assert found["qat"]["loss"] < found["ptq"]["rtn"]["loss"]  # already the range search is better than min-max
    assert 0 < found["qat"]["recovery"]["rtn"] < 1.5
    assert_whole(found, tensors=5 * 7)


def loss_by_hand(model_folder: Path, stories: Path, blocks: int, block_size: int) -> float:
    """Nats a token, with transformers alone: every story after BOS, all in a row, cut into blocks."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids: list[int] = []
    for line in stories.read_text().splitlines():
        ids += tokenizer(json.loads(line)["text"])["input_ids"]
        if len(ids) > blocks * block_size:
            break
    tokens = torch.tensor(ids[: blocks * block_size]).view(blocks, block_size)
    with torch.no_grad():
        return float(model(input_ids=tokens, labels=tokens).loss)


def test_novels_llama_at_two_bits(run: Any, shared_data: Path) -> None:
    """Its loss is 4.33 on the validation text, which trains here, since the training text has 30 MB."""
    text = shared_data / "text" / "novels" / "valid.txt"
    found = run("novels_llama/w2a16_g32_lsq", f"data.train=[{text}]", "evaluate.blocks=8", "trainer.batch_size=2")
    assert (found["model"], found["scheme"]) == ("novels-llama", "w2a16_g32")
    assert found["float"]["loss"] == pytest.approx(4.33, abs=0.5)  # other text, shorter blocks
    assert found["ptq"]["rtn"]["loss"] > found["float"]["loss"] + 0.1
    assert found["qat"]["loss"] < found["ptq"]["rtn"]["loss"]
    assert_whole(found, tensors=6 * 7)


def assert_whole(found: dict[str, Any], tensors: int) -> None:
    export = found["exports"]["compressed_tensors"]
    assert export["tensors"] == tensors
    assert (export["mismatched_codes"], export["mismatched_scales"]) == (0, 0)
    assert export["max_logit_difference"] <= 1e-4
    assert export["loss"] == pytest.approx(found["qat"]["loss"], abs=1e-4)
    assert all(sample["continuations"]["qat"] for sample in found["samples"])
