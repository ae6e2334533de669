"""YaRN as transformers computes it, next to what llama.cpp makes of the few keys that it has for it.

llama.cpp scales queries and keys by ``0.1 ln(factor) + 1`` and rounds the borders of the ramp outwards. A config can
ask for more: ``attention_factor``, ``mscale`` with ``mscale_all_dim``, ``truncate``. The definitions are those of
transformers' ``_compute_yarn_parameters`` (https://arxiv.org/abs/2309.00071).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def original_context(config: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    """Length of the context before it was extended."""
    return int(rope.get("original_max_position_embeddings") or config["max_position_embeddings"])


def factor(config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    """How much longer the context is than the original one; null means the ratio of the two lengths."""
    given = rope.get("factor")
    return float(config["max_position_embeddings"] / original_context(config, rope) if given is None else given)


def attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What a config multiplies queries and keys by."""
    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    weight, over = rope.get("mscale"), rope.get("mscale_all_dim")
    if weight and over:
        return _scale(factor, weight) / _scale(factor, over)
    return llama_cpp_attention_factor(factor)


def llama_cpp_attention_factor(factor: float) -> float:
    """What llama.cpp multiplies queries and keys by."""
    return _scale(factor, 1.0)


def _scale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0
