"""The unquantized rest of a model as a checkpoint holds it: tensors, ``config.json``, ``generation_config.json``."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from qat.errors import InputError
from qat.fake_quant.kv_cache import ATTRIBUTE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the rest can be stored in."""


def unquantized(
    model: nn.Module, prepared: set[str], followers: set[str], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Everything in the state dict but quantized weights, tied copies and the fake quantizers' own parameters.

    Args:
        model: prepared.
        prepared: names of the quantized modules.
        followers: names of tied parameters that are stored under another name.
        dtype: to which parameters are rounded; None leaves them as they are. Buffers are never rounded: what
            models keep in them (a router's correction bias, frequencies) is float32 in their files too.

    Raises:
        InputError: another dtype, or a parameter that is too large for it, which is named.
    """
    state = model.state_dict()
    dtypes = rest_dtypes(model, prepared, followers, dtype)
    return {name: rounded(name, state[name].detach(), to).cpu().clone() for name, to in dtypes.items()}


def rest_dtypes(
    model: nn.Module, prepared: set[str], followers: set[str], dtype: torch.dtype | None
) -> dict[str, torch.dtype | None]:
    """Names of what :func:`unquantized` gives, with the dtype that each is rounded to; its arguments and errors."""
    if dtype not in (None, *DTYPES):
        raise InputError(f"rest_dtype is {dtype}; allowed are {', '.join(map(str, DTYPES))} and None")
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    weights = {f"{name}.weight" for name in prepared}
    own = tuple(f"{name}.{part}_fake_quantizer." for name in prepared for part in ("weight", "activation"))
    cache = f".{ATTRIBUTE}."
    return {
        name: dtype if name in parameters else None
        for name in model.state_dict()
        if name not in weights and name not in followers and not name.startswith(own) and cache not in name
    }


def config_of(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Any]:
    """``config.json`` of ``model``, with the dtype of its rest, which loaders take as the model's own.

    Args:
        model: a transformers model; another module has no config, which gives ``{}``.
        dtype: of the rest; None: as it is in memory.
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    stored = str(dtype or model.dtype).removeprefix("torch.")
    return {**json.loads(config.to_json_string()), "architectures": [type(model).__name__], "dtype": stored}


def generation_config_of(model: nn.Module) -> dict[str, Any] | None:
    """``generation_config.json`` of ``model``; None of one that does not generate."""
    config = getattr(model, "generation_config", None)
    return None if config is None else dict(json.loads(config.to_json_string()))


def stop_tokens(config: dict[str, Any], generation_config: dict[str, Any] | None) -> list[int]:
    """Ids that end a text, by transformers' own rule.

    Args:
        config: the model's ``config.json``, which counts only where there is no generation config.
        generation_config: its ``generation_config.json``, which counts also where it names no stop token.
    """
    found = (config if generation_config is None else generation_config).get("eos_token_id")
    if found is None:
        return []
    return [found] if isinstance(found, int) else list(found)


def rounded(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``tensor`` in ``dtype``; as it is where that is None or the tensor holds integers.

    Raises:
        InputError: a number that ``dtype`` is too small for.
    """
    if dtype in (None, tensor.dtype) or not tensor.is_floating_point():
        return tensor
    result = tensor.to(dtype)
    if (result.isinf() & tensor.isfinite()).any():
        largest = tensor[tensor.isfinite()].abs().max().item()
        raise InputError(
            f"{name} holds {largest:g}, and {str(dtype).removeprefix('torch.')} ends at {torch.finfo(dtype).max:g}; "
            "set rest_dtype=float32"
        )
    return result
