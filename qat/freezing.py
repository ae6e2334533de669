"""From fake quantizers to integers, with the very functions that their forward pass uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.errors import RunError
from qat.fake_quant import FakeQuantizer
from qat.grid import Grid
from qat.hosts import Host, kv_caches
from qat.quantized import KVScales, QuantizedWeight


def freeze_host(name: str, host: Any) -> QuantizedWeight:
    """The integers of one quantized module on the CPU; errors as of :func:`finite_grid`."""
    grid, kind = finite_grid(name, host.weight_fake_quantizer, host.weight), kind_of(host)
    inputs = getattr(host, "activation_fake_quantizer", None)
    if inputs is None or inputs.args.dynamic:
        return QuantizedWeight(_on_cpu(grid), host.quantization_scheme, kind)
    scale, zero_point = inputs.scale_and_zero_point(host.weight)
    zero = None if zero_point is None else zero_point.reshape(1).to(torch.int8).cpu()
    return QuantizedWeight(_on_cpu(grid), host.quantization_scheme, kind, scale.detach().reshape(1).cpu(), zero)


def freeze_caches(model: nn.Module) -> dict[str, KVScales]:
    """Scales of static keys and values; dynamic ones have none."""
    static = {name: cache for name, cache in kv_caches(model).items() if not cache.key.args.dynamic}
    empty = torch.empty(0)  # a static quantizer has its scale from its range, not from what it looks at
    return {
        name: KVScales(*(q.scale_and_zero_point(empty)[0].detach().reshape(1).cpu() for q in (cache.key, cache.value)))
        for name, cache in static.items()
    }


def finite_grid(name: str, quantizer: FakeQuantizer, weight: Tensor) -> Grid:
    """The grid that ``quantizer`` rounds ``weight`` to, or some of its rows.

    Raises:
        RunError: a weight or a scale that is not finite; ``name`` is the module's.
    """
    grid = quantizer.grid(weight)
    if not _is_finite(weight):
        raise RunError(f"{name}.weight holds numbers that are not finite; the checkpoint was not written")
    if not _is_finite(grid.scale):
        raise RunError(f"{name} has a scale that is not finite; the checkpoint was not written")
    return grid


def kind_of(host: Host) -> str:
    """``Linear`` or ``Embedding``."""
    return "Embedding" if isinstance(host, nn.Embedding) else "Linear"


def _is_finite(tensor: Tensor) -> bool:
    """A finite sum has finite terms, and is many times faster to compute; an infinite one may have them too."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _on_cpu(grid: Grid) -> Grid:
    return Grid(grid.codes.cpu(), grid.scale.cpu(), None if grid.zero_point is None else grid.zero_point.cpu())
