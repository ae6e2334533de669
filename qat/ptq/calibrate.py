"""Calibration of static activations: show data to an observer, set the ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qat import grid
from qat.errors import InputError
from qat.fake_quant.lsq import LSQFakeQuantizer
from qat.hosts import quantizers
from qat.observers import Observer


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[dict[str, Any]], observer: Observer) -> int:
    """Set the range of every static input activation, and of static keys and values, from data.

    The model runs in float while it is observed; the state of the quantizers is put back afterwards.

    Args:
        model: prepared.
        batches: keyword arguments of the model, e.g. ``{"input_ids": int64 [batch, tokens]}``.
        observer: sees the whole input of a quantizer, batch by batch.

    Returns:
        The number of quantizers that got a range; 0 where the scheme has no static activations.

    Raises:
        InputError: there are static activations and no batches.
    """
    rounding = quantizers(model)
    static = {name: q for name, q in rounding.items() if isinstance(q, LSQFakeQuantizer) and q.activation}
    if not static:
        return 0
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in static}
    handles = [q.register_forward_pre_hook(_observing(seen[name], observer)) for name, q in static.items()]
    enabled = [q.enabled.clone() for q in rounding.values()]
    was_training = model.training
    try:
        model.eval()
        for quantizer in rounding.values():
            quantizer.enabled.zero_()
        for batch in batches:
            model(**batch)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
        for quantizer, value in zip(rounding.values(), enabled, strict=True):
            quantizer.enabled.copy_(value)
    for name, own in static.items():
        if not seen[name]:
            raise InputError(f"no calibration data reached {name}; set calibration_batches to 1 or more")
        lower, upper = (torch.stack(ends) for ends in zip(*seen[name], strict=True))
        own.set_range(observer.combine(lower), observer.combine(upper))
    return len(static)


def _observing(seen: list[tuple[Tensor, Tensor]], observer: Observer) -> Any:
    def hook(quantizer: Any, inputs: tuple[Tensor, ...]) -> None:
        groups = grid.to_groups(inputs[0].detach().float(), quantizer.args)
        seen.append(observer.range(groups, quantizer.spec))

    return hook
