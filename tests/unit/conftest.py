"""A tiny Llama for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import random_llama
from transformers import LlamaForCausalLM


@pytest.fixture
def llama() -> Callable[..., LlamaForCausalLM]:
    """``llama(tie=True)`` makes a freshly seeded model of 2 blocks, hidden 64."""

    def make(tie: bool = True) -> LlamaForCausalLM:
        return random_llama(tie_word_embeddings=tie)

    return make
