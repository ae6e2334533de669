"""SIGINT and SIGTERM to a whole process group, as a terminal, ``timeout`` or a cluster sends them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

Qat = Any
STEPS, AT = 6, 3
# qat, but one batch of training or validation tells that it has begun, and goes on when there is a file "go".
HELD = """\
import sys, time
from pathlib import Path
from qat.cli.main import main
from qat.training.module import QATModule

method, at, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
step = getattr(QATModule, method)

def held(self, batch, batch_idx):
    if batch_idx == at and not Path("go").exists():
        print("held", file=sys.stderr, flush=True)
        while not Path("go").exists():
            time.sleep(0.01)
    return step(self, batch, batch_idx)

setattr(QATModule, method, held)
sys.exit(main(words))
"""
NOTICE = "stopping after this step; once more stops at once, without saving"


@pytest.fixture
def start(qat: Qat, text_words: list[str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a training of two workers and wait until it is in the middle of a step or validation."""
    script = tmp_path / "held.py"
    script.write_text(HELD)
    words = [
        *("model.pretrained=false", *text_words, *qat.one_thread, "trainer.workers=2", f"trainer.max_steps={STEPS}"),
        *("trainer.batch_size=2", "trainer.block_size=64", "trainer.val_every=2", "trainer.val_blocks=8"),
    ]

    def started(method: str, at: int) -> subprocess.Popen[str]:
        child: subprocess.Popen[str] = qat.start(
            method, at, "train", *words, "run_dir=run", cwd=tmp_path, script=script
        )
        until(child, "held")
        return child

    return started


def until(child: subprocess.Popen[str], wanted: str) -> None:
    """Read what the child writes on stderr up to the line ``wanted``."""
    assert child.stderr is not None
    seen = []
    for line in child.stderr:
        seen.append(line)
        if line.strip() == wanted:
            return
    raise AssertionError(f"'{wanted}' never came: {''.join(seen)}")


def workers(child: subprocess.Popen[str]) -> set[int]:
    """Process ids of its children."""
    found = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if not found.exists():
        pytest.skip("this system does not list the children of a process in /proc")
    return {int(pid) for pid in found.read_text().split()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("method", "at", "done"), [("training_step", AT, AT + 1), ("validation_step", 1, 2)])
def test_the_step_is_finished_and_saved(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int, method: str, at: int, done: int
) -> None:
    child = start(method, at)
    os.killpg(child.pid, number)
    until(child, NOTICE)
    (tmp_path / "go").touch()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == (f"qat: interrupted after step {done} of {STEPS}; resume with: qat train resume=run")
    assert "Traceback" not in err
    assert "DataLoader worker" not in err
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once_and_leaves_no_process(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int
) -> None:
    child = start("training_step", AT)
    readers = workers(child)
    assert len(readers) >= 2
    os.killpg(child.pid, number)
    until(child, NOTICE)
    os.killpg(child.pid, number)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == "qat: interrupted; resume with: qat train resume=run"
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert not [pid for pid in readers if Path(f"/proc/{pid}").exists()]
