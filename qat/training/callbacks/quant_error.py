"""How far each layer's weights are from their grid, and how far its clip ranges have moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from qat.hosts import hosts
from qat.training.callbacks.metrics import log
from qat.training.callbacks.steps import ends_step, is_due
from qat.training.module import QATModule


class QuantError(Callback):
    """Logs ``sqnr/<layer>`` and ``range_drift/<layer>`` every ``every`` steps and after the last one.

    The drift is measured from the first step that does not observe, so that a calibration is no drift. The
    ranges at that step are kept in the checkpoint for a resume.

    Args:
        every: optimizer steps between two rows.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._first: dict[str, list[Tensor]] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the ranges that training starts from."""
        assert isinstance(pl_module, QATModule)
        schedule = pl_module.schedule
        if not self._first and schedule is not None and not schedule.state_at(trainer.global_step).observe:
            self._first = {
                layer: [one.detach().cpu().clone() for one in ranges]
                for layer, ranges in _ranges(pl_module.model).items()
            }

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log both numbers of every layer."""
        assert isinstance(pl_module, QATModule)
        if ends_step(trainer, batch_idx) and is_due(trainer, self.every) and self._first:
            log(trainer, weight_sqnr(pl_module.model) | self._drift(pl_module.model))

    def state_dict(self) -> dict[str, Any]:
        """The first ranges."""
        return {"first": self._first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._first = state_dict["first"]

    def _drift(self, model: nn.Module) -> dict[str, float]:
        return {
            f"range_drift/{layer}": relative_change(self._first[layer], ranges)
            for layer, ranges in _ranges(model).items()
        }


def weight_sqnr(model: nn.Module) -> dict[str, float]:
    """``sqnr/<layer>``: signal-to-quantization-noise ratio of each weight in dB.

    ``10 log10(|w|^2 / |w - q(w)|^2)`` at the bits that are in force now; infinite for a weight on its grid.
    """
    ratios = {}
    for name, host in hosts(model).items():
        if host.weight_fake_quantizer is not None:
            weight = host.weight.detach().float()
            error = weight - host.weight_fake_quantizer.grid(weight).value()
            ratios[f"sqnr/{name}"] = (10 * torch.log10(weight.square().sum() / error.square().sum())).item()
    return ratios


def relative_change(first: Sequence[Tensor], now: Sequence[Tensor]) -> float:
    """``sum |now - first| / sum |first|`` over all ranges of a layer."""
    moved = sum((b.detach().cpu() - a).abs().sum() for a, b in zip(first, now, strict=True))
    size = sum(a.abs().sum() for a in first)
    return float(moved / size) if size else 0.0


def _ranges(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The learned ranges of each layer that has some: of its weight, then of its input."""
    found = {}
    for name, host in hosts(model).items():
        quantizers = (host.weight_fake_quantizer, getattr(host, "activation_fake_quantizer", None))
        learned = [one for quantizer in quantizers if quantizer is not None for one in quantizer.ranges()]
        if learned := [one for one in learned if one.requires_grad]:
            found[name] = learned
    return found
