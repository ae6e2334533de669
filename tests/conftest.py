"""Shared by every test: no network, no traces in the user's home, a text, and the real data where it is at hand."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

# Set before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models are tiny: a second thread costs more than it brings, and much more on a machine that is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from support import VOCABULARY

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
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 1,300 tokens of the embedded model's tokenizer."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(Path(sysconfig.get_path("stdlib"), "bisect.py").read_text())
    return path


@pytest.fixture(scope="session")
def text_words(text: Path) -> list[str]:
    """Overrides that read all splits from :func:`text`."""
    return ["data=text", *(f"data.{split}=[{text}]" for split in ("train", "validation", "test"))]


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids [2, 16] for ``support.random_llama``."""
    return torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real texts and small models beside the checkout; tests that ask for them skip without."""
    folder = Path(os.environ.get("QAT_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data is absent: there is no folder {folder}")
    return folder
