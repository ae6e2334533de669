"""The hosts of a prepared model: how to find its fake quantizers and put a precision state into them."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import nn
from torchao.quantization.qat import FakeQuantizedEmbedding, FakeQuantizedLinear

from qat.fake_quant import FakeQuantizer
from qat.fake_quant.kv_cache import ATTRIBUTE, KVCacheFakeQuantizer
from qat.fake_quant.lsq import LSQFakeQuantizer
from qat.schedule import PrecisionState

Host: TypeAlias = FakeQuantizedLinear | FakeQuantizedEmbedding


def hosts(model: nn.Module) -> dict[str, Host]:
    """Every fake-quantized module by full name, in model order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Host)}


def quantizers(model: nn.Module) -> dict[str, FakeQuantizer]:
    """Every fake quantizer by full name; one shared by tied weights appears once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantizer)}


def kv_caches(model: nn.Module) -> dict[str, KVCacheFakeQuantizer]:
    """The quantizers of keys and values by full name of their attention, in model order."""
    named = model.named_modules()
    return {name.removesuffix(f".{ATTRIBUTE}"): m for name, m in named if isinstance(m, KVCacheFakeQuantizer)}


def range_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The learned clip ranges with their names."""
    owners = quantizers(model).items()
    named = [(f"{owner}.{name}", p) for owner, q in owners for name, p in q.named_parameters(recurse=False)]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def uncalibrated(model: nn.Module) -> list[str]:
    """Static activation quantizers, those of keys and values included, that have no range yet."""
    static = [(n, q) for n, q in quantizers(model).items() if isinstance(q, LSQFakeQuantizer) and q.activation]
    return [name for name, quantizer in static if not quantizer.has_range]


def block_index(name: str) -> int | None:
    """Index of the transformer block that holds the module ``name``, or None outside the blocks.

    Example:
        >>> block_index("model.layers.3.mlp.down_proj")
        3
    """
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def block_count(model: nn.Module) -> int:
    """Number of transformer blocks that hold a host."""
    indices = (block_index(name) for name in hosts(model))
    return 1 + max((index for index in indices if index is not None), default=-1)


@torch.no_grad()
def apply_state(model: nn.Module, state: PrecisionState) -> None:
    """Write ``state`` into the buffers of every fake quantizer.

    Modules outside the blocks (embedding, head) are quantized when every block is. Keys and values are activations.
    """
    active = state.quantized_blocks(block_count(model))
    for name, cache in kv_caches(model).items():
        on = state.activations and (state.blocks >= 1.0 or block_index(name) in active)
        for rounding in (cache.key, cache.value):
            rounding.set_precision(rounding.args.num_bits, on, state.mix, state.observe)
    for name, host in hosts(model).items():
        index = block_index(name)
        on = state.blocks >= 1.0 if index is None else index in active
        for quantizer, enabled in (
            (host.weight_fake_quantizer, state.weights and on),
            (getattr(host, "activation_fake_quantizer", None), state.activations and on),
        ):
            if quantizer is not None:
                own = quantizer.args.num_bits
                bits = max(own, state.weight_bits or own) if quantizer is host.weight_fake_quantizer else own
                quantizer.set_precision(bits, enabled, state.mix, state.observe)
