from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qat.engines.base import NoLogits, NotAvailable
from qat.engines.process import WorkerProcess
from qat.engines.workers import worker_protocol
from qat.errors import InputError, RunError

LIMIT = 60.0
SCRIPT = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from worker_protocol import NoLogits, NotAvailable, serve

print("a library greets its user" * 10_000)

def echo(value):
    print("noise")
    os.write(1, b'{"result": "noise", "peak_memory_bytes": 0}\\n')
    return value

def where():
    return [os.getpid(), os.getcwd()]

def crash():
    print("the last that was heard", file=sys.stderr, flush=True)
    os.abort()

def leave():
    sys.exit("no model today")

def hang():
    time.sleep(600)

class InputError(Exception):
    pass

KINDS = {"value": ValueError, "key": KeyError, "run": RuntimeError, "input": InputError}
KINDS |= {"none": NotAvailable, "logits": NoLogits}

def fail(kind, words):
    raise KINDS[kind](words)

def garble():
    os.write(int(sys.argv[-2]), b"hello\\n")

def start():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid

def grow(megabytes):
    return int(np.ones(megabytes << 20, dtype=np.int8).sum())

serve({f.__name__: f for f in (echo, where, crash, leave, hang, fail, garble, start, grow)})
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "scripted.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path), str(Path(worker_protocol.__file__).parent)]


@pytest.fixture
def worker(script: list[str]):
    made = WorkerProcess("scripted", script, {})
    yield made
    made.close()


def is_running(process: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] not in ("", "Z")


def comes_true(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return true


def test_what_libraries_print_does_not_reach_the_answers(worker: WorkerProcess) -> None:
    for value in ({"a": [1, 2.5, None, "ü\n"]}, "text", 3):
        assert worker.call("echo", LIMIT, value=value) == value


def test_large_arrays_pass_bit_for_bit_and_leave_no_file(worker: WorkerProcess) -> None:
    _, folder = worker.call("where", LIMIT)
    array = np.random.default_rng(0).standard_normal((3, 1 << 20), dtype=np.float32)  # 12 MiB, above any pipe's buffer
    array[0, :2] = np.nan, -np.inf
    assert worker.call("echo", LIMIT, value=array).tobytes() == array.tobytes()
    back = worker.call("echo", LIMIT, value={"a": array[:1], "b": np.arange(3)})
    assert back["a"].tobytes() == array[:1].tobytes() and back["b"].tolist() == [0, 1, 2]
    assert not [*Path(folder).glob("*.npy")]


def test_a_crash_is_an_error_with_the_last_words(worker: WorkerProcess) -> None:
    with pytest.raises(RunError, match=r"scripted was ended by SIGABRT.*: the last that was heard"):
        worker.call("crash", LIMIT)
    with pytest.raises(RunError, match="worker of scripted has ended"):
        worker.call("echo", LIMIT, value=1)


def test_a_worker_that_leaves_says_why(worker: WorkerProcess) -> None:
    with pytest.raises(RunError, match="scripted ended with exit status 1: no model today"):
        worker.call("leave", LIMIT)


def test_a_hang_ends_with_its_time_and_its_process(worker: WorkerProcess) -> None:
    process, folder = worker.call("where", LIMIT)
    with pytest.raises(RunError, match=r"scripted did not answer hang within 0\.2 seconds"):
        worker.call("hang", 0.2)
    assert not is_running(process)
    assert not Path(folder).exists()


def test_closing_ends_what_the_worker_started(worker: WorkerProcess) -> None:
    child = worker.call("start", LIMIT)
    assert is_running(child)
    worker.close()
    assert comes_true(lambda: not is_running(child))


@pytest.mark.parametrize(
    ("kind", "words", "error", "told"),
    [
        ("value", "because\nof it", InputError, "because of it"),
        ("input", "because of it", InputError, "because of it"),
        ("none", "because of it", NotAvailable, "because of it"),
        ("logits", "because of it", NoLogits, "because of it"),
        ("run", "because of it", RunError, "because of it"),
        ("key", "name", RunError, "KeyError: 'name'"),
        ("run", "", RunError, "RuntimeError"),
    ],
)
def test_an_error_keeps_its_words_and_the_worker_lives(worker: WorkerProcess, kind, words, error, told) -> None:
    with pytest.raises(error) as caught:
        worker.call("fail", LIMIT, kind=kind, words=words)
    assert type(caught.value) is error and str(caught.value) == told
    assert worker.call("echo", LIMIT, value=1) == 1


def test_an_answer_outside_the_protocol_is_an_error(worker: WorkerProcess) -> None:
    with pytest.raises(RunError, match=r"scripted answered b'hello', which is not in qat's protocol"):
        worker.call("garble", LIMIT)


def test_peak_memory_is_the_workers_own(worker: WorkerProcess) -> None:
    worker.call("grow", LIMIT, megabytes=1)
    before = worker.peak_memory_bytes
    worker.call("grow", LIMIT, megabytes=200)
    assert before is not None and worker.peak_memory_bytes is not None
    assert 190 << 20 < worker.peak_memory_bytes - before < 300 << 20


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent cannot be started.*no_such_python"):
        WorkerProcess("absent", [str(tmp_path / "no_such_python")], {})


def test_a_worker_does_not_outlive_a_parent_that_is_killed(script: list[str], root: Path) -> None:
    parent = """
import os, signal, sys, threading, time
from qat.engines.process import WorkerProcess
worker = WorkerProcess("scripted", sys.argv[1:], {})
print(*worker.call("where", 60), flush=True)
threading.Thread(target=worker.call, args=("hang", 60)).start()
time.sleep(0.3)  # the worker is busy
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", parent, *script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    process, folder = done.stdout.split()
    assert comes_true(lambda: not is_running(int(process)))
    assert comes_true(lambda: not Path(folder).exists())
