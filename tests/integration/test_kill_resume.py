"""A training that is killed at any moment and taken up with ``resume=`` ends as if nothing had happened, bit for bit.

Everything runs as ``qat train`` in processes of their own. 14 steps of 3 micro-batches, a checkpoint every 2 steps,
a precision that changes at steps 2, 4, 6, 8 and 12, and a text that is passed through several times. A float model is
trained before, since the loss distills from it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import checkpoint, rows

from qat.data.text import TextFiles
from qat.data.tokens import build_tokens
from qat.models import tiny_llama

pytestmark = pytest.mark.slow

Qat = Any
ACCUMULATE, BATCH, BLOCK, SAVE_EVERY, STEPS = 3, 2, 64, 2, 14
RECIPE = f"""\
# Every part that has a state, small.
defaults:
  - /phase@schedule.warmup: float_warmup
  - /phase@schedule.lower: progressive_bits
  - /phase@schedule.main: fake_quant
  - /phase@schedule.frozen: freeze_ranges
  - override /model: tiny_llama
  - override /data: text
  - override /scheme: w4a16_g32
  - override /loss: distill
model: {{pretrained: false}}
data: {{train: [TEXT], validation: [TEXT]}}
schedule:
  warmup: {{steps: 2}}
  lower: {{steps: 6, bits: [8, 6, 4]}}
  frozen: {{steps: 2}}
loss: {{teacher: tuned_float, mix: 0.5}}
baseline: {{tuned_float: true}}
optimizer: {{weight_decay: 0.1}}
trainer:
  max_steps: {STEPS}
  accumulate: {ACCUMULATE}
  batch_size: {BATCH}
  block_size: {BLOCK}
  save_every: {SAVE_EVERY}
  log_every: 1
  val_every: 5
  val_blocks: 2
  quant_error_every: 3
  num_threads: 1
  device: cpu
"""
# qat, but it kills itself as soon as it has the batch of one micro-batch, of the float or of the quantized model.
KILLED = """\
import os, signal, sys
from qat.cli.main import main
from qat.training.module import QATModule

quantized, micro_batch, words = sys.argv[1] == "quantized", int(sys.argv[2]), sys.argv[3:]
train = QATModule.training_step

def training_step(self, batch, batch_idx):
    if batch_idx == micro_batch and (self.schedule is not None) == quantized:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, batch, batch_idx)

QATModule.training_step = training_step
sys.exit(main(words))
"""
WORDS = ("train", "recipe=mine/small", "--recipes", "recipes", "run_dir=run")


@pytest.fixture(scope="module")
def prepare(text: Path) -> Callable[[Path], Path]:
    """Put the recipe into a folder."""

    def write(place: Path) -> Path:
        recipe = place / "recipes" / "mine" / "small.yaml"
        recipe.parent.mkdir(parents=True)
        recipe.write_text(RECIPE.replace("TEXT", str(text)))
        return place

    return write


@pytest.fixture(scope="module")
def whole(qat: Qat, prepare: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted training."""
    place = prepare(tmp_path_factory.mktemp("whole"))
    outcome = qat.process(*WORDS, cwd=place)
    assert outcome.code == 0, outcome.err
    return place / "run"


@pytest.fixture(scope="module")
def epoch(text: Path, cache: Path) -> int:
    """Blocks of one pass through the text."""
    tokenizer = tiny_llama.load(pretrained=False).tokenizer
    return len(build_tokens(TextFiles(train=[str(text)]), tokenizer, "train", BLOCK))


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Compare nested containers; tensors by dtype, shape and every bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}.{index}")
    else:
        assert ours == theirs, where


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Weights, ranges, moments, rates, and the losses of every step, each step once."""
    for name in ("last.ckpt", "best.ckpt"):
        found, expected = checkpoint(ours, name), checkpoint(theirs, name)
        for part in ("global_step", "state_dict"):
            assert_same(found[part], expected[part], f"{name}: {part}")
    found, expected = checkpoint(ours), checkpoint(theirs)
    for state in (found, expected):
        del state["callbacks"]["Throughput"]["seconds"]
    for part in ("optimizer_states", "lr_schedulers", "callbacks"):
        assert_same(found[part], expected[part], part)
    assert [int(row["step"]) for row in rows(ours)] == list(range(1, STEPS + 1))
    assert rows(ours) == rows(theirs)


def test_the_run_has_what_the_moments_below_are_about(whole: Path, epoch: int) -> None:
    table = json.loads((whole / "schedule.json").read_text())["rows"]
    assert (table[0]["phase"], table[-1]["phase"]) == ("warmup", "frozen")
    bits = [row["bits"] for row in rows(whole)]
    assert [int(float(value)) for value in bits] == [32, 32, 8, 8, 6, 6, 4, 4, 4, 4, 4, 4, 4, 4]
    assert 2 < epoch / (ACCUMULATE * BATCH) < STEPS / 2
    assert any("fake_quantizer" in name for name in checkpoint(whole)["state_dict"])
    assert len(checkpoint(whole)["optimizer_states"][0]["param_groups"]) == 3
    assert len({row["train/loss"] for row in rows(whole)}) == STEPS


@pytest.mark.parametrize("moment", ["phase", "window", "epoch", "float"])
def test_killed_and_resumed(
    qat: Qat, whole: Path, epoch: int, prepare: Callable[[Path], Path], tmp_path: Path, moment: str
) -> None:
    border = epoch // BATCH  # the micro-batch in which the first pass through the text ends
    micro_batch = {
        "phase": 5 * ACCUMULATE,  # two steps into 6 of lower's, before any gradient of the step
        "window": 9 * ACCUMULATE + 1,  # gradients of one of three micro-batches are there
        "epoch": border + 1,
        "float": 7 * ACCUMULATE + 2,
    }[moment]
    place = prepare(tmp_path)
    script, run = place / "killed.py", place / "run"
    script.write_text(KILLED)
    model = "float" if moment == "float" else "quantized"
    killed = qat.process(model, micro_batch, *WORDS, cwd=place, script=script)
    assert killed.code == -signal.SIGKILL, killed.err
    stopped = run / "tuned_float" if moment == "float" else run
    done = micro_batch // ACCUMULATE
    assert checkpoint(stopped)["global_step"] == done // SAVE_EVERY * SAVE_EVERY
    assert not (run / "quantized").exists()

    resumed = qat.process("train", f"resume={run}", cwd=place)
    assert resumed.code == 0, resumed.err
    assert_same_training(run, whole)
    assert_same_training(run / "tuned_float", whole / "tuned_float")
    for folder in ("quantized", "tuned_float/model"):
        expected = {path.name: path.read_bytes() for path in (whole / folder).iterdir()}
        assert {path.name: path.read_bytes() for path in (run / folder).iterdir()} == expected
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]
