"""A model folder of any size to measure with: Llama-shaped, sharded, random bfloat16 weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qat.errors import InputError
from qat.models.build import config_from_dict, on_meta
from qat.tensor_files import parse_size, write_tensors

_WIDTHS = (4096, 2048, 1024, 512, 256)
_BLOCK = 1 << 24
"""Numbers drawn; larger weights repeat them, since no measurement depends on their values."""


def write_model(folder: Path, size: str, shard_size: str) -> int:
    """Write ``config.json`` and weights into the empty ``folder``.

    From 2.5 GB on its layers are those of Mistral 7B: width 4096, 218M parameters each.

    Args:
        folder: an existing folder.
        size: how many bytes of weights, like ``8GB``; one layer more or less.
        shard_size: of one file at most.

    Returns:
        Bytes of the weights.

    Raises:
        InputError: a size that cannot be read, or below 10 MB.
    """
    values = config_of_size(size)
    state = on_meta(config_from_dict(values), "causal_lm").state_dict()
    layout = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_tensors(folder, layout, _random(layout), shard_size)
    return sum(tensor.nbytes for tensor in layout.values())


def config_of_size(size: str) -> dict[str, Any]:
    """``config.json`` of a model whose weights take ``size`` or a little less; see :func:`write_model`."""
    wanted = parse_size(size)
    for width in _WIDTHS:
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "vocab_size": 8 * width,
            "hidden_size": width,
            "intermediate_size": 7 * width // 2,
            "num_attention_heads": width // 128,
            "num_key_value_heads": max(1, width // 512),
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        }
        keys_and_values = 2 * width * 128 * max(1, width // 512)
        layer = 2 * (2 * width * width + keys_and_values + 3 * width * 7 * width // 2)
        layers = (wanted - 2 * 2 * 8 * width * width) // layer
        if layers >= 4:
            return {**config, "num_hidden_layers": layers}
    raise InputError(f"size={size} is too small to measure; give 10MB or more")


def _random(layout: Mapping[str, Tensor]) -> Iterator[tuple[str, Iterable[Tensor]]]:
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(torch.bfloat16)
    for name, tensor in layout.items():
        rows = tensor.split(_BLOCK // tensor[0].numel())
        yield name, (block[: part.numel()].view(part.shape) for part in rows)
