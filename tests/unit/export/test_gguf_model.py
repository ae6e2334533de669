from __future__ import annotations

import json
import math

import pytest
import torch
from gguf import GGUFWriter
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qat.errors import InputError
from qat.export.gguf.model import _context, add_metadata, architecture, rope_factors


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


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}


def yarn(**changes):
    """The JSON of a Llama with YaRN, and what transformers multiplies its queries and keys by."""
    config = LlamaConfig(max_position_embeddings=2048, rope_parameters=YARN | changes)
    return json.loads(config.to_json_string()), ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))[1]


SAID_ANEW = [
    {},
    {"attention_factor": 1 + 0.1 * math.log(4)},
    {"mscale": 1.0, "mscale_all_dim": 0},
    {"truncate": True},
    {"factor": None},
]


@pytest.mark.parametrize("changes", SAID_ANEW, ids=str)
def test_yarn_is_taken_where_llama_cpp_computes_the_same(changes):
    config, attention = yarn(**changes)
    assert attention == pytest.approx(0.1 * math.log(4) + 1)  # llama.cpp's own
    architecture(config)
    writer = GGUFWriter(None, "llama")
    add_metadata(writer, config)
    values = {key: value.value for key, value in writer.kv_data[0].items() if "rope.scaling" in key}
    assert (values["llama.rope.scaling.factor"], values["llama.rope.scaling.original_context_length"]) == (4.0, 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_factor": 1.0}, "attention factor of 1: llama.cpp's graph computes 1.13863"),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, "attention factor of 1: llama.cpp's graph computes 1.13863"),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, "attention factor of 0.964"),
        ({"truncate": False}, "truncate false"),
    ],
    ids=str,
)
def test_yarn_is_refused_where_llama_cpp_computes_otherwise(changes, message):
    config, attention = yarn(**changes)
    assert "truncate" in changes or abs(attention - 0.1 * math.log(4) - 1) > 0.1
    with pytest.raises(InputError, match=message):
        architecture(config)


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_a_scaling_without_a_factor_is_refused(kind):
    config = json.loads(LlamaConfig().to_json_string())
    with pytest.raises(InputError, match=f"rope_type '{kind}' without a factor"):
        architecture(config | {"rope_parameters": {"rope_type": kind, "factor": None}})
