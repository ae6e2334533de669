"""Fake quantization of the keys and values that an attention keeps in its cache.

Keys are rounded after their rotary embedding, values as they are projected: what engines store. It happens where every
transformers decoder hands them over, ``past_key_values.update(keys, values, layer)``: a stand-in takes the place of the
cache in each forward pass, rounds what is new and passes it on. So the numbers are the same in training (no cache), in
scoring, and token by token with a cache, which then holds what was rounded once.

compressed-tensors puts its own rounding at the same place when it loads a file with a ``kv_cache_scheme``, and its rule
says which modules are concerned: attentions of their own keys and values with a cache among their arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from compressed_tensors.quantization.lifecycle.initialize import is_cached_attention_module
from torch import Tensor, nn

from qat.errors import InputError, RunError
from qat.fake_quant.base import FakeQuantizer

ATTRIBUTE = "kv_fake_quantizer"
"""Name under which an attention has its quantizers."""


class KVCacheFakeQuantizer(nn.Module):
    """The fake quantizers of one attention.

    Args:
        key: of the keys.
        value: of the values.
        argument: how the attention's forward calls its cache.
    """

    def __init__(self, key: FakeQuantizer, value: FakeQuantizer, argument: str = "past_key_values") -> None:
        super().__init__()
        self.key = key
        self.value = value
        self.argument = argument

    def forward(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Round both, [batch, heads, tokens, head size]."""
        return self.key(keys), self.value(values)


def attach(model: nn.Module, build: Callable[[str], tuple[FakeQuantizer, FakeQuantizer]]) -> list[str]:
    """Give every attention that has a cache its quantizers, in place.

    Args:
        model: a transformers decoder.
        build: full name of an attention -> the quantizers of its keys and of its values.

    Returns:
        The full names.

    Raises:
        InputError: the model has no such attention, or it has quantizers already.
    """
    found = {name: module for name, module in model.named_modules() if is_cached_attention_module(module)}
    if not found:
        raise InputError(
            f"the scheme has a kv_cache, and {type(model).__name__} has no attention with a cache that "
            "compressed-tensors knows (k_proj, v_proj or qkv_proj, and past_key_values); set scheme.kv_cache=null"
        )
    for name, module in found.items():
        if hasattr(module, ATTRIBUTE):
            raise InputError(f"{name} is prepared already; prepare a model once")
        names = inspect.signature(module.forward).parameters
        argument = next(known for known in ("past_key_values", "past_key_value") if known in names)
        setattr(module, ATTRIBUTE, KVCacheFakeQuantizer(*build(name), argument))
        # Plain functions: a copy of the model keeps them, and they find the copy's own quantizers.
        module.register_forward_pre_hook(_stand_in, with_kwargs=True)
        module.register_forward_hook(_check_use, with_kwargs=True)
    return list(found)


class _RoundingCache:
    """The cache of one attention in one forward pass, or none, behind its quantizers."""

    def __init__(self, quantizer: KVCacheFakeQuantizer, cache: Any) -> None:
        self.used = False
        self._quantizer = quantizer
        self._cache = cache

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Round what is new, store it, and return all that is stored; what is new where there is no cache."""
        self.used = True
        keys, values = self._quantizer(keys, values)
        if self._cache is None:
            return keys, values
        stored: tuple[Tensor, Tensor] = self._cache.update(keys, values, *args, **kwargs)
        return stored

    def __getattr__(self, name: str) -> Any:
        """Whatever else an attention asks of its cache."""
        return getattr(self._cache, name)


def _stand_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    quantizer: KVCacheFakeQuantizer = getattr(module, ATTRIBUTE)
    cache = _RoundingCache(quantizer, kwargs.get(quantizer.argument))
    return args, {**kwargs, quantizer.argument: cache}


def _check_use(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """An attention that does not store what it computes would train without any rounding, and say nothing."""
    if not kwargs[getattr(module, ATTRIBUTE).argument].used:
        raise RunError(
            f"{type(module).__name__} does not hand its keys and values to a cache, so they were not rounded; "
            "set scheme.kv_cache=null"
        )
