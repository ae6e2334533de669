"""Small models for the tests of this part, made without the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qat.models import hf
from qat.models.loaded import LoadedModel
from qat.models.save import save_float

# Keys that the models' own config.json files have; the rest is the model type's default.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "max_position_embeddings": 131072,
    },
    "mistral": {"model_type": "mistral", "num_attention_heads": 32, "num_key_value_heads": 8},
    "qwen2": {"model_type": "qwen2", "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896},
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "gemma": {"model_type": "gemma", "num_attention_heads": 8, "num_key_value_heads": 1, "hidden_size": 2048},
    "gemma2": {"model_type": "gemma2"},
    "gemma3": {"model_type": "gemma3_text"},
    "phi": {"model_type": "phi"},
    "phi3": {
        "model_type": "phi3",
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.1] * 48},
    },
    "gpt_neox": {"model_type": "gpt_neox"},
    "gpt2": {"model_type": "gpt2"},
    "bert": {"model_type": "bert"},
    "minilm": {"model_type": "bert", "architectures": ["BertModel"]},
}


@pytest.fixture
def shrunk() -> Callable[..., LoadedModel]:
    """Load one of the architectures small and random; Gemma 2 caps its scores, so its attention is eager."""

    def load(name: str, **options: Any) -> LoadedModel:
        attention = "eager" if name == "gemma2" else "sdpa"
        return hf.load(name, shrink=True, architecture=ARCHITECTURES[name], **({"attention": attention} | options))

    return load


@pytest.fixture(params=list(ARCHITECTURES))
def any_model(request: pytest.FixtureRequest, shrunk: Callable[..., LoadedModel]) -> LoadedModel:
    return shrunk(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole, valid Hugging Face folder of a tiny Llama with untied embeddings, for a test to break."""
    loaded = hf.load("llama", shrink=True, architecture={"model_type": "llama"}, seed=1)
    save_float(loaded, tmp_path / "model")
    return tmp_path / "model"
