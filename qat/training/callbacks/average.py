"""The mean of the last weights and ranges of a run."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from qat.training.callbacks.steps import ends_step
from qat.training.module import QATModule


class Average(Callback):
    """Averages the latent weights and the clip ranges of the last steps, each step alike.

    Stochastic weight averaging (Izmailov et al., arXiv:1803.05407) over consecutive steps: the mean lies nearer the
    middle of the region that the last steps wander through than any of them. Training itself does not see it, nor do
    validations; :meth:`apply` ends the run with it. It costs one more copy of what is averaged, on the device
    and in a checkpoint.

    Args:
        first: step, counted from 1, from whose end on weights are averaged.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self._mean: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights of a step into the mean."""
        assert isinstance(pl_module, QATModule)
        if not ends_step(trainer, batch_idx) or trainer.global_step < self.first:
            return
        self.count += 1
        for name, parameter in pl_module.model.named_parameters():
            value = parameter.detach()
            if name in self._mean:
                self._mean[name] = self._mean[name].to(value.device).lerp_(value, 1 / self.count)
            else:
                self._mean[name] = value.clone()

    @torch.no_grad()
    def apply(self, model: nn.Module) -> int:
        """Give ``model`` the mean and return of how many steps it is."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self._mean[name])
        return self.count

    def state_dict(self) -> dict[str, Any]:
        """The mean so far and what it is of."""
        return {"count": self.count, "mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.count, self._mean = state_dict["count"], state_dict["mean"]
