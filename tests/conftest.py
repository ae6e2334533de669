"""Shared by every test: no network, no traces in the user's home, and the real data where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models are tiny: a second thread costs more than it brings, and much more on a machine that is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# Examples are the same in every run, and a slow machine is no failure.
settings.register_profile("qat", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("qat")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The token cache of this test run, in place of the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["QAT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real texts and small models beside the checkout; tests that ask for them skip without."""
    folder = Path(os.environ.get("QAT_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data is absent: there is no folder {folder}")
    return folder
