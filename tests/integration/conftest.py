"""The command line as a user has it: in this process where that is the same and faster, else in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from support import copy_tokenizer, random_llama

from qat.cli.main import main

# One thread, also in this process: the order of a sum, and so its last bit, depends on their number.
ONE_THREAD = ("trainer.num_threads=1", "trainer.device=cpu")


@dataclass(frozen=True)
class Outcome:
    """What a command left on the screen, and its exit code."""

    code: int
    out: str
    err: str

    def error(self, code: int = 2) -> str:
        """The one line on stderr of a command that was refused."""
        assert self.code == code, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("qat: error: ")
        assert "Traceback" not in self.out
        return lines[0].removeprefix("qat: error: ")


class Qat:
    """The ``qat`` command."""

    one_thread = ONE_THREAD

    def __call__(self, *words: object, cwd: Path) -> Outcome:
        """Run the command in this process."""
        out, err = StringIO(), StringIO()
        with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            try:
                code: Any = main([str(word) for word in words])
            except SystemExit as stop:
                code = stop.code
        return Outcome(code, out.getvalue(), err.getvalue())

    def start(self, *words: object, cwd: Path, script: Path | None = None) -> subprocess.Popen[str]:
        """Start the installed command, or a Python ``script`` that calls it, in a process group of its own."""
        command = [sys.executable, str(script)] if script else [str(Path(sys.executable).with_name("qat"))]
        return subprocess.Popen(
            [*command, *map(str, words)],
            cwd=cwd,
            env=os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell gives what it starts in the background an ignored SIGINT, and children inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def process(self, *words: object, cwd: Path, script: Path | None = None) -> Outcome:
        """Run the installed command (see :meth:`start`) to its end."""
        child = self.start(*words, cwd=cwd, script=script)
        try:
            out, err = child.communicate(timeout=300)
        except BaseException:
            child.kill()
            raise
        return Outcome(child.returncode, out, err)


@pytest.fixture(scope="session")
def qat() -> Qat:
    """The ``qat`` command."""
    return Qat()


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    """A command sets the number of threads of its process, which here is that of other tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: a random Llama with a context of 128 tokens, and tiny_llama's tokenizer."""
    model = random_llama(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("models") / "llama"
    model.save_pretrained(folder)
    copy_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def small(llama: Path, text_words: list[str]) -> list[str]:
    """Overrides for a run of seconds: two steps on :func:`llama`."""
    return [
        *("model=hf", f"model.path={llama}", *text_words, *ONE_THREAD),
        *("trainer.max_steps=2", "trainer.block_size=32", "trainer.batch_size=2", "trainer.val_every=0"),
        *("trainer.log_every=1", "evaluate.blocks=2"),
    ]


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Everything below a folder: relative path -> bytes, of a folder none, of a link where it points."""
    return _contents


def _contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        else:
            found[name] = path.read_bytes() if path.is_file() else b""
    return found
