"""A tiny Llama for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture
def llama() -> Callable[..., LlamaForCausalLM]:
    """``llama(tie=True)`` makes a freshly seeded model of 2 blocks, hidden 64."""

    def make(tie: bool = True) -> LlamaForCausalLM:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=100,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tie,
        )
        return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids [2, 16] for :func:`llama`."""
    return torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(1))
