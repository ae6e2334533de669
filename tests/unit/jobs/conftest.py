from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import InProcess

from qat.jobs.stages import exports


@pytest.fixture(autouse=True, scope="module")
def _engines_in_this_process() -> object:
    """Worker processes are tested with the engines and in the integration tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "Isolated", InProcess)
        yield


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to work on of the run that a file of tests calls ``finished``."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def one_code_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export reads back with one integer that is not the checkpoint's."""
    parity = exports.parity

    def changed(checkpoint: Any, modules: Any, *others: Any) -> Any:
        modules = dict(modules)
        next(iter(modules.values())).weight.codes[0, 0] ^= 1
        return parity(checkpoint, modules, *others)

    monkeypatch.setattr(exports, "parity", changed)
