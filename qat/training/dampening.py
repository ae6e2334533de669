"""Oscillation dampening (Nagel et al., arXiv:2203.11086)."""

from __future__ import annotations

import torch
from torch import nn

from qat.hosts import hosts


@torch.no_grad()
def dampen(model: nn.Module, strength: float) -> None:
    """Add the gradient of ``strength * sum (clip(w) - q(w))^2`` to that of every quantized weight that is trained.

    ``q(w)`` and the ends of the grid count as constants, as in the paper, so that a weight is drawn to the point it
    has and a clipped one not at all. The gradient is added by itself, ``2 * strength * (clip(w) - q(w))``, instead of
    the loss: that keeps no copy of the weights for a backward pass.

    Args:
        model: a prepared model after its backward pass; weights without a gradient are left out.
        strength: the factor on the sum.
    """
    tied: set[int] = set()
    for host in hosts(model).values():
        weight, quantizer = host.weight, host.weight_fake_quantizer
        if quantizer is None or weight.grad is None or id(weight) in tied:
            continue
        tied.add(id(weight))
        grid = quantizer.grid(weight)
        distance = weight - grid.value()
        # Behind an end of the grid the weight is clipped to that end, so that there is no distance.
        distance = torch.where(grid.codes == quantizer.qmin, distance.clamp(min=0), distance)
        distance = torch.where(grid.codes == quantizer.qmax, distance.clamp(max=0), distance)
        weight.grad.add_(distance, alpha=2 * strength)
