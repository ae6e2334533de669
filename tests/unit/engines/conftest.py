"""A tiny export for engines, and the engines that have an environment of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import copy_tokenizer, random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.isolated import build
from qat.engines.remote import Remote
from qat.export.base import Exporter
from qat.paths import assets_dir, configs_dir
from qat.prepare import prepare
from qat.scheme import Scheme

VOCABULARY = 1024
"""Of the embedded tokenizer, so that its text can be given to a random model."""


@pytest.fixture
def frozen() -> Callable[..., QuantizedCheckpoint]:
    """``frozen(scheme, **fields of the config)`` freezes a random Llama that takes the embedded tokenizer's ids."""

    def make(scheme: Scheme, **changes) -> QuantizedCheckpoint:
        model = random_llama(**{"vocab_size": VOCABULARY, "initializer_range": 0.1} | changes)
        prepare(model, scheme)
        return QuantizedCheckpoint.freeze(model, scheme)

    return make


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[Exporter, QuantizedCheckpoint], Path]:
    """``exported(exporter, checkpoint)`` writes an export with the embedded tokenizer."""

    def write(exporter: Exporter, checkpoint: QuantizedCheckpoint) -> Path:
        source = tmp_path / "tokenizer"
        source.mkdir(exist_ok=True)
        copy_tokenizer(source)
        directory = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        exporter.write(checkpoint, directory, source)
        return directory

    assert (assets_dir() / "tiny_llama" / "tokenizer.json").is_file()
    return write


@pytest.fixture
def foreign() -> Callable[..., Remote]:
    """``foreign("vllm")`` is the engine as its config makes it; the test skips where this machine lacks it."""
    made: list[Remote] = []

    def make(name: str, **options) -> Remote:
        engine = build(yaml.safe_load((configs_dir() / "engine" / f"{name}.yaml").read_text()) | options)
        assert isinstance(engine, Remote)
        if (reason := engine.missing()) is not None:
            pytest.skip(f"{name}: {reason}")
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()
