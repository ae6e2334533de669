from __future__ import annotations

import json
import math

import pytest
import torch
from gguf import GGUFWriter
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qat.errors import InputError
from qat.export.gguf import yarn as yarn_rules
from qat.export.gguf.model import _context, add_metadata, architecture, rope_factors

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 0.25,
    "max_position_embeddings": 128,
}


def raw(config: PretrainedConfig) -> dict:
    """As ``config.json`` holds it."""
    return json.loads(config.to_json_string())


def metadata(config: dict, arch: str) -> dict:
    """What :func:`add_metadata` writes, without the prefix of the architecture."""
    writer = GGUFWriter(None, arch)
    add_metadata(writer, config)
    values = {key: value.value for key, value in writer.kv_data[0].items()}
    assert values.pop("general.architecture") == arch
    assert all(key.startswith(f"{arch}.") for key in values)
    return {key.removeprefix(f"{arch}."): value for key, value in values.items()}


COMMON = {
    "vocab_size": 100,
    "block_count": 3,
    "context_length": 128,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.layer_norm_rms_epsilon": 0.25,
    "rope.dimension_count": 32,
    "rope.freq_base": 5e5,
}
THETA = {"rope_type": "default", "rope_theta": 5e5}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOW = {"attention.sliding_window": 16, "attention.sliding_window_pattern": [True, False, True]}
CAPS = {"attn_logit_softcapping": 48.0, "final_logit_softcapping": 24.0}


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, GemmaConfig])
def test_metadata_of_models_with_full_attention_by_hand(kind):
    config = raw(kind(**SIZES, rope_parameters=THETA))
    config["head_dim"] = 32
    arch = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    assert metadata(config, arch) == COMMON


def test_metadata_of_gemma2_by_hand():
    config = Gemma2Config(
        **SIZES, **CAPS, rope_parameters=THETA, layer_types=LAYERS, sliding_window=16, query_pre_attn_scalar=32
    )
    assert metadata(raw(config), "gemma2") == COMMON | WINDOW | CAPS


def test_metadata_of_gemma3_by_hand():
    rope = {"full_attention": THETA, "sliding_attention": {"rope_type": "default", "rope_theta": 1234.0}}
    config = Gemma3TextConfig(
        **SIZES, rope_parameters=rope, layer_types=LAYERS, sliding_window=16, query_pre_attn_scalar=32
    )
    assert metadata(raw(config), "gemma3") == COMMON | WINDOW | {"rope.freq_base_swa": 1234.0}


@pytest.mark.parametrize(("inner", "expected"), [(None, 256), (96, 96)])
def test_metadata_of_gpt2_by_hand(inner, expected):
    config = GPT2Config(
        vocab_size=100, n_embd=64, n_layer=3, n_head=4, n_positions=128, n_inner=inner, layer_norm_epsilon=0.25
    )
    assert metadata(raw(config), "gpt2") == {
        "vocab_size": 100,
        "block_count": 3,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": expected,
        "attention.head_count": 4,
        "attention.layer_norm_epsilon": 0.25,
    }


@pytest.mark.parametrize("old", ["rope_type", "type"])
def test_rope_of_a_config_of_transformers_4(old):
    config = {**raw(LlamaConfig(**SIZES)), "rope_theta": 5e5, "rope_scaling": {old: "linear", "factor": 2.0}}
    del config["rope_parameters"]
    assert metadata(config, "llama") == COMMON | {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    del config["rope_scaling"], config["rope_theta"]
    assert metadata(config, "llama") == COMMON | {"rope.freq_base": 10000.0}


@pytest.mark.parametrize(("given", "written"), [({}, (32, 1)), ({"beta_fast": 16.0, "beta_slow": 2.0}, (16, 2))])
def test_yarn_by_hand(given, written):
    rope = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 32, **given}
    found = metadata(raw(LlamaConfig(**SIZES, rope_parameters=rope)), "llama")
    scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 32}
    scaling |= {"yarn_beta_fast": written[0], "yarn_beta_slow": written[1]}
    assert found == COMMON | {f"rope.scaling.{key}": value for key, value in scaling.items()}


def test_heads_without_a_size_of_their_own_share_the_width_and_keys_have_as_many_as_queries():
    config = raw(LlamaConfig(**SIZES))
    config |= {"head_dim": None, "num_key_value_heads": None}
    found = metadata(config, "llama")
    assert (found["attention.key_length"], found["rope.dimension_count"]) == (16, 16)
    assert found["attention.head_count_kv"] == 4


def test_the_context_of_mistral_ends_with_its_window():
    config = raw(MistralConfig(**SIZES, sliding_window=16, rope_parameters=THETA))
    assert metadata(config, "llama") == COMMON | {"context_length": 16}
    config["sliding_window"] = 4096
    assert metadata(config, "llama")["context_length"] == 128


@pytest.mark.parametrize(
    ("kind", "arch", "interleaved", "norm_offset"),
    [
        ("llama", "LLAMA", True, 0.0),  # conversion/llama.py: undo_permute
        ("mistral", "LLAMA", True, 0.0),
        ("qwen2", "QWEN2", False, 0.0),
        ("qwen3", "QWEN3", False, 0.0),
        ("gemma", "GEMMA", False, 1.0),  # conversion/gemma.py: data_torch + 1
        ("gemma2", "GEMMA2", False, 1.0),
        ("gemma3_text", "GEMMA3", False, 1.0),
    ],
)
def test_how_llama_cpps_converter_turns_the_weights_of_a_family(kind, arch, interleaved, norm_offset):
    configs = {"gemma": GemmaConfig, "gemma2": Gemma2Config, "gemma3_text": Gemma3TextConfig}
    configs |= {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    found = architecture(raw(configs[kind]()))
    assert (found.arch.name, found.interleaved, found.norm_offset) == (arch, interleaved, norm_offset)


GEMMA3 = {"query_pre_attn_scalar": 32, "head_dim": 32, "hidden_size": 64, "num_attention_heads": 4}
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (Gemma3TextConfig(**GEMMA3), {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar 16: .* computes 32"),
        (Gemma3TextConfig(**GEMMA3), {"num_hidden_layers": 62}, "query_pre_attn_scalar 32: .* computes 16"),
        (Gemma2Config(**GEMMA3), {"num_hidden_layers": 46}, "query_pre_attn_scalar 32: .* computes 16"),
        (Gemma3TextConfig(**GEMMA3), {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (Gemma3TextConfig(**GEMMA3), {"attn_logit_softcapping": 50.0}, "gemma3 with attn_logit_softcapping"),
        (Gemma2Config(**GEMMA3), {"attn_logit_softcapping": None}, "gemma2 without logit soft-capping"),
        (Gemma2Config(**GEMMA3), {"final_logit_softcapping": None}, "gemma2 without logit soft-capping"),
        (
            Gemma3TextConfig(**GEMMA3),
            {"rope_parameters": {"full_attention": THETA, "sliding_attention": SCALED}},
            "scaled rope in sliding layers",
        ),
        (GemmaConfig(), {"hidden_act": "gelu", "hidden_activation": None}, "gemma with the activation 'gelu'"),
        (Gemma2Config(**GEMMA3), {"hidden_activation": "gelu"}, "gemma2 with the activation 'gelu'"),
        (GPT2Config(), {"activation_function": "relu"}, "gpt2 with the activation 'relu'"),
        # Keys that transformers' class of the family does not read decide nothing.
        (GemmaConfig(), {"hidden_act": "relu", "hidden_activation": "gelu_pytorch_tanh"}, "the activation 'relu'"),
        (LlamaConfig(), {"hidden_act": "relu", "hidden_activation": "silu"}, "llama with the activation 'relu'"),
        (GPT2Config(), {"scale_attn_weights": False}, "scale_attn_weights false"),
        (GPT2Config(), {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2Config(), {"add_cross_attention": True}, "add_cross_attention"),
        (Qwen2Config(), {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3' of qwen2"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_what_a_config_can_change_and_a_graph_cannot_is_refused(config, changes, message):
    architecture(raw(config))
    with pytest.raises(InputError, match=message):
        architecture(raw(config) | changes)


@pytest.mark.parametrize(("kind", "layers"), [(Gemma2Config, 46), (Gemma3TextConfig, 62)])
def test_the_sizes_whose_attention_is_scaled_by_the_width(kind, layers):
    architecture(raw(kind(**GEMMA3)) | {"num_hidden_layers": layers, "query_pre_attn_scalar": 16})
    with pytest.raises(InputError, match="query_pre_attn_scalar 16: .* computes 32"):
        architecture(raw(kind(**GEMMA3)) | {"num_hidden_layers": layers - 1, "query_pre_attn_scalar": 16})


def test_gemma3_may_cap_its_logits():
    assert (
        metadata(raw(Gemma3TextConfig(**GEMMA3)) | {"final_logit_softcapping": 24.0}, "gemma3")[
            "final_logit_softcapping"
        ]
        == 24.0
    )


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
    {"mscale": 0.707},
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
        ({"attention_factor": 1.1387}, "attention factor of 1.1387: llama.cpp's graph computes 1.13863"),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, "attention factor of 1: llama.cpp's graph computes 1.13863"),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, "attention factor of 0.964"),
        ({"truncate": False}, "truncate false"),
    ],
    ids=str,
)
def test_yarn_is_refused_where_llama_cpp_computes_otherwise(changes, message):
    config, attention = yarn(**changes)
    assert "truncate" in changes or abs(attention - 0.1 * math.log(4) - 1) > 5e-5
    with pytest.raises(InputError, match=message):
        architecture(config)


@pytest.mark.parametrize(("factor", "expected"), [(0.5, 1.0), (1.0, 1.0), (math.e, 1.1)])
def test_yarn_scales_the_attention_only_of_a_longer_context(factor, expected):
    assert yarn_rules.llama_cpp_attention_factor(factor) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_a_scaling_without_a_factor_is_refused(kind):
    config = json.loads(LlamaConfig().to_json_string())
    with pytest.raises(InputError, match=f"rope_type '{kind}' without a factor"):
        architecture(config | {"rope_parameters": {"rope_type": kind, "factor": None}})
