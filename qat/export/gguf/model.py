"""What llama.cpp must know of an architecture: its metadata keys, and what its graphs cannot compute.

The keys are those of llama.cpp's own converter (``conversion/*.py``). Everything that llama.cpp fixes in its code
and a config can change (activation functions, attention scales, windows) is compared, so that a file that loads
also computes what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from torch import Tensor

from qat.errors import InputError, nearest
from qat.export.gguf import yarn

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp holds a family of models.

    Attributes:
        arch: its name in GGUF.
        activations: names of the activation function that its graph computes.
        activation_key: where transformers' own class of the family reads that name; it ignores the others' keys.
        interleaved: its rotary pairs are neighbours (2i, 2i + 1), not halves: rows of q and k are reordered.
        norm_offset: what is added to the weights of RMS norms (Gemma's ``1 + weight``).
    """

    arch: MODEL_ARCH
    activations: tuple[str, ...] = ("silu", "swish")
    activation_key: str = "hidden_act"
    interleaved: bool = False
    norm_offset: float = 0.0


_GELU = ("gelu_pytorch_tanh", "gelu_new")
ARCHITECTURES = {
    "llama": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "mistral": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": Architecture(MODEL_ARCH.QWEN2),
    "qwen3": Architecture(MODEL_ARCH.QWEN3),
    "gemma": Architecture(MODEL_ARCH.GEMMA, _GELU, norm_offset=1.0),
    "gemma2": Architecture(MODEL_ARCH.GEMMA2, _GELU, "hidden_activation", norm_offset=1.0),
    "gemma3_text": Architecture(MODEL_ARCH.GEMMA3, _GELU, "hidden_activation", norm_offset=1.0),
    "gpt2": Architecture(MODEL_ARCH.GPT2, _GELU, "activation_function"),
}
"""By ``model_type``."""

_WINDOWED = (MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3)
# llama.cpp knows these sizes by their number of layers and scales their attention by hidden / heads.
_SCALED_BY_WIDTH = {MODEL_ARCH.GEMMA2: 46, MODEL_ARCH.GEMMA3: 62}


def architecture(config: Config) -> Architecture:
    """The architecture of a ``config.json``.

    Raises:
        InputError: llama.cpp's graph of it cannot compute what the config says.
    """
    name = str(config.get("model_type"))
    if name not in ARCHITECTURES:
        hint = nearest(name, ARCHITECTURES)
        raise InputError(f"gguf cannot hold model_type '{name}'; it holds {', '.join(ARCHITECTURES)}{hint}")
    found = ARCHITECTURES[name]
    activation = config.get(found.activation_key)
    _expect(activation in found.activations, f"{name} with the activation '{activation}'", found.activations[0])
    if found.arch is MODEL_ARCH.GPT2:
        _check_gpt2(config)
    else:
        _check_rope(config, found)
    if found.arch in _WINDOWED:
        _check_gemma(config, found.arch)
    return found


def block_count(config: Config) -> int:
    """Number of transformer blocks."""
    return int(config["n_layer"] if config["model_type"] == "gpt2" else config["num_hidden_layers"])


def heads(config: Config) -> tuple[int, int]:
    """Heads of the queries, and of the keys and values."""
    queries = int(config["n_head"] if config["model_type"] == "gpt2" else config["num_attention_heads"])
    return queries, int(config.get("num_key_value_heads") or queries)


def add_metadata(writer: GGUFWriter, config: Config) -> None:
    """Write the sizes and constants of the model."""
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(block_count(config))
    if config["model_type"] == "gpt2":
        _add_gpt2(writer, config)
    else:
        _add_llama_like(writer, config)


def rope_factors(config: Config) -> Tensor | None:
    """Divisors float32 [head_dim / 2] of the rotary frequencies under ``llama3`` scaling; None without it.

    The bands of wavelengths are those of transformers' ``_compute_llama3_parameters``.
    """
    rope = {} if config["model_type"] == "gpt2" else _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    head_dim, factor = _head_dim(config), rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    turns = original / (2 * math.pi * _theta(rope) ** exponent)  # of a pair over the original context
    smooth = (turns - low) / (high - low)
    divisor = 1 / ((1 - smooth) / factor + smooth)
    divisor = torch.where(turns > high, 1.0, divisor)
    return torch.where(turns < low, float(factor), divisor)


def _add_llama_like(writer: GGUFWriter, config: Config) -> None:
    queries, keys = heads(config)
    head_dim = _head_dim(config)
    writer.add_context_length(_context(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(queries)
    writer.add_head_count_kv(keys)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    _add_rope(writer, config)
    if architecture(config).arch in _WINDOWED:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if (cap := config.get("attn_logit_softcapping")) is not None:
        writer.add_attn_logit_softcapping(cap)
    if (cap := config.get("final_logit_softcapping")) is not None:
        writer.add_final_logit_softcapping(cap)


def _add_gpt2(writer: GGUFWriter, config: Config) -> None:
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _add_rope(writer: GGUFWriter, config: Config) -> None:
    rope, local = _rope(config), _rope(config, "sliding_attention")
    writer.add_rope_freq_base(_theta(rope))
    if architecture(config).arch is MODEL_ARCH.GEMMA3:
        writer.add_rope_freq_base_swa(_theta(local))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(yarn.factor(config, rope) if kind == "yarn" else rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(yarn.original_context(config, rope))
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32)
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1)


def _rope(config: Config, layers: str = "full_attention") -> dict[str, Any]:
    """Rotary parameters of one kind of layers, from transformers 5's ``rope_parameters`` or 4's two keys."""
    rope: dict[str, Any] | None = config.get("rope_parameters")
    if rope is None:
        scaling = config.get("rope_scaling") or {}
        theta = config.get("rope_theta", 10000.0)
        rope = {"rope_theta": theta, **scaling, "rope_type": scaling.get("rope_type", scaling.get("type", "default"))}
    return dict(rope.get(layers, rope))


def _theta(rope: Mapping[str, Any]) -> float:
    return float(rope.get("rope_theta", 10000.0))


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _context(config: Config) -> int:
    """Longest context. llama.cpp gives some architectures no sliding window: within it, attention is the same."""
    context = int(config["max_position_embeddings"])
    window = config.get("sliding_window")
    if architecture(config).arch in _WINDOWED or window is None:
        return context
    used = config["model_type"] == "mistral" or config.get("use_sliding_window")
    return min(context, int(window)) if used else context


def _check_rope(config: Config, found: Architecture) -> None:
    kinds = ["default", "linear", "yarn"] + (["llama3"] if found.arch is MODEL_ARCH.LLAMA else [])
    rope, local = _rope(config), _rope(config, "sliding_attention")
    kind = rope.get("rope_type", "default")
    _expect(kind in kinds, f"rope_type '{kind}' of {config['model_type']}", ", ".join(kinds))
    _expect(rope.get("partial_rotary_factor", 1.0) == 1.0, "a partial_rotary_factor below 1", "1")
    if kind in ("linear", "llama3"):
        _expect(rope.get("factor") is not None, f"rope_type '{kind}' without a factor", "a number")
    if kind == "yarn":
        factor = yarn.factor(config, rope)
        own, known = yarn.attention_factor(rope, factor), yarn.llama_cpp_attention_factor(factor)
        _expect(math.isclose(own, known, rel_tol=1e-6), f"yarn with an attention factor of {own:.6g}", f"{known:.6g}")
        _expect(bool(rope.get("truncate", True)), "yarn with truncate false", "true")
    if found.arch is MODEL_ARCH.GEMMA3:
        _expect(local.get("rope_type", "default") == "default", "scaled rope in sliding layers", "default")


def _check_gemma(config: Config, arch: MODEL_ARCH) -> None:
    width = config["hidden_size"] // config["num_attention_heads"]
    scalar = width if block_count(config) == _SCALED_BY_WIDTH[arch] else _head_dim(config)
    given = config.get("query_pre_attn_scalar", scalar)
    _expect(given == scalar, f"query_pre_attn_scalar {given}", scalar)
    _expect(not config.get("use_bidirectional_attention"), "use_bidirectional_attention", "false")
    capped = [config.get(f"{name}_logit_softcapping") is not None for name in ("attn", "final")]
    if arch is MODEL_ARCH.GEMMA2:
        _expect(all(capped), "gemma2 without logit soft-capping", "attn_ and final_logit_softcapping")
    else:
        _expect(not capped[0], "gemma3 with attn_logit_softcapping", "null")


def _check_gpt2(config: Config) -> None:
    _expect(config.get("scale_attn_weights", True), "scale_attn_weights false", "true")
    _expect(not config.get("scale_attn_by_inverse_layer_idx"), "scale_attn_by_inverse_layer_idx", "false")
    _expect(not config.get("add_cross_attention"), "add_cross_attention", "false")


def _expect(holds: bool, what: str, allowed: object) -> None:
    if not holds:
        raise InputError(f"gguf cannot hold {what}: llama.cpp's graph computes {allowed}")
