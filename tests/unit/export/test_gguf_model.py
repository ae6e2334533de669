from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qat.errors import InputError
from qat.export.gguf.model import _context, architecture, rope_factors


def test_llama3_scaling_divides_the_frequencies_as_transformers_does():
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 512
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=rope, max_position_embeddings=4096)
    factors = rope_factors(json.loads(config.to_json_string()))
    assert factors is not None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 5e5 ** (torch.arange(0, 64, 2) / 64)
    assert {1.0, 8.0} < set(factors.tolist())  # all three bands
    torch.testing.assert_close(plain / factors, scaled)


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (MistralConfig(max_position_embeddings=64, sliding_window=16), 16),
        (MistralConfig(max_position_embeddings=64, sliding_window=None), 64),
        (Qwen2Config(max_position_embeddings=64, sliding_window=16), 64),
        (Qwen3Config(max_position_embeddings=64, sliding_window=16, use_sliding_window=True), 16),
    ],
)
def test_the_context_ends_where_llama_cpp_has_no_window(config, context):
    assert _context(json.loads(config.to_json_string())) == context


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llamma"}, "did you mean 'llama'"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ],
)
def test_models_that_llama_cpp_would_compute_otherwise_are_refused(changes, message):
    config = json.loads(LlamaConfig().to_json_string())
    with pytest.raises(InputError, match=message):
        architecture(config | changes)
