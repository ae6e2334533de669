"""Make a model's config small while keeping what makes its architecture different from others.

A shrunk Llama-3.1-8B has two narrow layers and 0.5M parameters, and still grouped-query attention, its rope
base, its activation and its (un)tied head: a recipe for the large model runs on it in seconds, offline.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from qat.errors import InputError, nearest
from qat.models.build import config_from_dict, quiet

LAYERS = 2
HEADS = 4
HIDDEN = 128  # every preset's group size divides it
INTERMEDIATE = 256
POSITIONS = 512
_INTERMEDIATE_NAMES = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "ffn_hidden_size")
_LEGACY_KEYS = {"architectures", "rope_theta", "rope_scaling", "partial_rotary_factor", "torch_dtype"}


def full_config(architecture: dict[str, Any]) -> PreTrainedConfig:
    """The config that a recipe's ``model.architecture`` describes.

    Raises:
        InputError: if the model type or a key is unknown (transformers would ignore a misspelt key).
    """
    with quiet():
        default = config_from_dict({"model_type": architecture.get("model_type")})
    known = {*default.to_dict(), *default.attribute_map, *_LEGACY_KEYS}
    for key in architecture:
        if key not in known:
            raise InputError(
                f"model.architecture.{key}: no such key in a {default.model_type} config{nearest(key, known)}"
            )
    with quiet():
        return config_from_dict(architecture)


def shrunk_config(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The same architecture with two layers of width 128, for the given tokenizer.

    Kept: the kind of attention (multi-head, grouped-query, multi-query; heads wider than hidden / heads),
    kinds of layers, activations, biases, norms, tied embeddings and the rope base. Rope scaling goes, with
    the long context that it is for.
    """
    config = config.get_text_config()
    values = config.to_dict()
    depth = config.num_hidden_layers
    positions = min(POSITIONS, getattr(config, "max_position_embeddings", POSITIONS))
    for key, value in values.items():
        if key == "layer_types" and value:
            values[key] = _kinds(value)
        elif isinstance(value, list) and len(value) == depth:
            values[key] = value[:LAYERS]
    small = {
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": _kv_heads(config),
        "head_dim": _head_dim(config),
        "vocab_size": len(tokenizer),
        "max_position_embeddings": positions,
    }
    small |= dict.fromkeys(_INTERMEDIATE_NAMES, INTERMEDIATE)
    mapped = {config.attribute_map.get(name, name): value for name, value in small.items()}
    values |= {name: value for name, value in mapped.items() if values.get(name) is not None}
    if values.get("rope_parameters"):
        values["rope_parameters"] = _unscaled(values["rope_parameters"])
    if values.get("sliding_window"):
        values["sliding_window"] = min(values["sliding_window"], positions // 2)
    for name in values:
        if name.endswith("_token_id"):
            values[name] = getattr(tokenizer, name, None)
    return config_from_dict(values)


def _kinds(layer_types: list[str]) -> list[str]:
    """Two layers that show as many kinds of layers as two can."""
    distinct = list(dict.fromkeys(layer_types))
    return [distinct[0], distinct[min(1, len(distinct) - 1)]]


def _kv_heads(config: PreTrainedConfig) -> int:
    """One for multi-query, all for multi-head, two for anything between."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return {1: 1, heads: HEADS}.get(kv_heads, HEADS // 2)


def _head_dim(config: PreTrainedConfig) -> int:
    """hidden / heads, or twice that where the full model's heads together are not as wide as hidden."""
    equal = HIDDEN // HEADS
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return equal if head_dim * config.num_attention_heads == config.hidden_size else 2 * equal


def _unscaled(rope: dict[str, Any]) -> dict[str, Any]:
    """Rope parameters (or, nested, those of each kind of layer) without scaling for long contexts."""
    if any(isinstance(value, dict) for value in rope.values()):
        return {kind: _unscaled(value) if isinstance(value, dict) else value for kind, value in rope.items()}
    kept = {"rope_theta", "partial_rotary_factor"} & rope.keys()
    return {"rope_type": "default"} | {name: rope[name] for name in kept}
