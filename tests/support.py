"""What several parts' tests build or read: importable from all of them, since pytest puts ``tests`` on the path."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qat.cli.main import main
from qat.engines.isolated import build
from qat.paths import assets_dir

VOCABULARY = 100


def random_llama(**changes: Any) -> LlamaForCausalLM:
    """A freshly seeded Llama in eval mode: 2 blocks, hidden 64, grouped-query attention, tied embeddings.

    Args:
        changes: fields of its ``LlamaConfig`` that a test needs to be others.
    """
    torch.manual_seed(0)
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    return LlamaForCausalLM(LlamaConfig(**(fields | changes))).eval()


def copy_tokenizer(folder: Path) -> None:
    """Put the embedded model's tokenizer into a model's folder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(assets_dir() / "tiny_llama" / name, folder)


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """A run's checkpoint, read without unpickling any class."""
    loaded: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    return loaded


def metrics(run: Path, name: str = "metrics.json") -> dict[str, Any]:
    """What a run measured."""
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def error_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Last line on stderr of a command in this process, which must end with ``code``."""
    try:
        found: object = main(list(words))
    except SystemExit as stop:
        found = stop.code
    assert found == code
    return capsys.readouterr().err.strip().splitlines()[-1]


def rows(run: Path) -> list[dict[str, str]]:
    """A run's ``metrics.csv`` without the one column that depends on the clock."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: row[key] for key in row if key != "tokens_per_second"} for row in csv.DictReader(file)]


class InProcess:
    """Stands in for ``qat.engines.isolated.Isolated`` where a process would only cost time: the engine itself."""

    peak_memory_bytes = 1234

    def __init__(self, config: dict[str, Any]) -> None:
        self._engine = build(config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: object) -> None:
        pass
