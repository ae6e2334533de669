"""A run that was stopped at any moment and resumed is, bit for bit, the run that was not.

The run crosses the end of an epoch (13 blocks, 4 a step) every third step, changes bits at steps 3, 8, 12 and 16,
validates every 6 steps, saves every 4 and has dropout, accumulation, a teacher and clip ranges.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.training.losses import DistillHidden

Tiny = Any

# Kills its own process at micro-batch 13 (the second half of step 7), in the middle of writing the checkpoint of
# step 8, or in the second batch of the validation of step 12.
CHILD = """
import os, runpy, signal, sys
from pathlib import Path
tiny, folder, moment = runpy.run_path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
module = tiny["quantized_module"](20)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, name, due):
    method = getattr(owner, name)
    def wrapped(batch, batch_idx):
        if due(batch_idx):
            kill()
        return method(batch, batch_idx)
    setattr(owner, name, wrapped)

if moment == "window":
    wrap(module, "training_step", lambda index: index == 13)
elif moment == "validation":
    wrap(module, "validation_step", lambda index: index == 1 and module.trainer.global_step == 12)
else:
    replace = os.replace
    def replace_or_die(source, target):
        if Path(target).name == "last.ckpt" and module.trainer.global_step == 8:
            kill()
        replace(source, target)
    os.replace = replace_or_die
tiny["run"](module, folder)
"""


@pytest.fixture(scope="module")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.run(tiny.quantized(20), folder)
    return folder


def _assert_same_run(tiny: Tiny, whole: Path, parted: Path, module: Any) -> None:
    expected, found = tiny.checkpoint(whole), tiny.checkpoint(parted)
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected["state_dict"][name]), name
        assert torch.equal(value, found["state_dict"][name]), name
    ours, theirs = found["optimizer_states"][0], expected["optimizer_states"][0]
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in ours["state"].items():
        assert all(torch.equal(value, theirs["state"][index][key]) for key, value in state.items())
    assert found["lr_schedulers"] == expected["lr_schedulers"]
    best = [tiny.checkpoint(folder, "best.ckpt") for folder in (whole, parted)]
    assert best[0]["global_step"] == best[1]["global_step"]
    assert all(torch.equal(v, best[1]["state_dict"][n]) for n, v in best[0]["state_dict"].items())
    rows = tiny.rows(parted)
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert rows == tiny.rows(whole)


def _stopped_at(tiny: Tiny, folder: Path, stop: int, resume: bool, module: Any = None, **options: Any) -> None:
    """Train until an error at micro-batch ``stop``."""
    module = module or tiny.quantized(20)
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        if batch_idx == stop:
            raise OSError("the machine has a fault")
        return step(batch, batch_idx)

    module.training_step = training_step
    with pytest.raises(OSError, match="fault"):
        tiny.run(module, folder, resume=resume, **options)


@pytest.mark.parametrize("stops", [[5], [8], [13], [24], [39], [11, 30]])
def test_stopped_by_errors(tiny: Tiny, whole: Path, tmp_path: Path, stops: list[int]) -> None:
    for number, stop in enumerate(stops):
        _stopped_at(tiny, tmp_path, stop, resume=number > 0)
    resumed = tiny.quantized(20)
    tiny.run(resumed, tmp_path, resume=True)
    _assert_same_run(tiny, whole, tmp_path, resumed)


@pytest.fixture(scope="module")
def whole_blockwise(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run through every phase that trains a part of the model, with its last weights averaged."""
    folder = tmp_path_factory.mktemp("blockwise")
    tiny.run(_blockwise(tiny), folder, average=0.4)
    return folder


def _blockwise(tiny: Tiny) -> Any:
    return tiny.blockwise(20, DistillHidden(relations=1.0))


# Steps 3 to 6 and 7 to 10 train a block each, 11 to 14 ranges, 15 to 19 are dampened; averaging begins at step 12,
# and every fourth step is saved: 14 is the end of step 6, whose last checkpoint is in the block's middle.
@pytest.mark.parametrize("stops", [[11], [24], [33], [13, 21, 39]])
def test_part_by_part_too(tiny: Tiny, whole_blockwise: Path, tmp_path: Path, stops: list[int]) -> None:
    for number, stop in enumerate(stops):
        _stopped_at(tiny, tmp_path, stop, resume=number > 0, module=_blockwise(tiny), average=0.4)
    resumed = _blockwise(tiny)
    tiny.run(resumed, tmp_path, resume=True, average=0.4)
    expected, found = (tiny.checkpoint(folder)["callbacks"]["Average"] for folder in (whole_blockwise, tmp_path))
    assert expected["count"] == found["count"] == 8
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, expected["mean"][name]) and torch.equal(value, found["mean"][name]), name
    resumed.load_state_dict(tiny.checkpoint(tmp_path)["state_dict"])
    _assert_same_run(tiny, whole_blockwise, tmp_path, resumed)


@pytest.mark.parametrize("stop", [14, 22])
def test_a_stop_between_two_parts_drops_the_moments_too(
    tiny: Tiny, whole_blockwise: Path, tmp_path: Path, stop: int
) -> None:
    """Saved after every step, so that the last checkpoint is that of a finished block or phase."""
    _stopped_at(tiny, tmp_path, stop, False, _blockwise(tiny), average=0.4, save_every=1)
    resumed = _blockwise(tiny)
    tiny.run(resumed, tmp_path, resume=True, average=0.4, save_every=1)
    resumed.load_state_dict(tiny.checkpoint(tmp_path)["state_dict"])
    _assert_same_run(tiny, whole_blockwise, tmp_path, resumed)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_too(tiny: Tiny, tmp_path: Path, precision: str) -> None:
    whole, resumed = tiny.float(), tiny.float()
    tiny.run(whole, tmp_path / "whole", precision=precision)
    _stopped_at(tiny, tmp_path / "parted", 13, resume=False, module=tiny.float(), precision=precision)
    tiny.run(resumed, tmp_path / "parted", resume=True, precision=precision)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    scaler = [tiny.checkpoint(tmp_path / name).get("MixedPrecision") for name in ("whole", "parted")]
    assert scaler[0] == scaler[1]
    assert (scaler[0] is not None) == (precision == "16-mixed")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "last"), [("window", 4), ("checkpoint", 4), ("validation", 8)])
def test_killed(tiny: Tiny, whole: Path, tmp_path: Path, root: Path, moment: str, last: int) -> None:
    conftest = Path(__file__).with_name("conftest.py")
    command = [sys.executable, "-c", CHILD, str(conftest), str(tmp_path), moment]
    env = os.environ | {"PYTHONPATH": str(root / "tests")}  # where conftest.py finds support.py
    child = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert tiny.checkpoint(tmp_path)["global_step"] == last
    resumed = tiny.quantized(20)
    tiny.run(resumed, tmp_path, resume=True)
    _assert_same_run(tiny, whole, tmp_path, resumed)
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
