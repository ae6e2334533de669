"""Stops at the first loss or gradient that is not finite, and names where it arose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from qat.errors import RunError
from qat.training.module import QATModule


class NanGuard(Callback):
    """Raises before a bad loss or gradient reaches the weights, so that ``last.ckpt`` stays good.

    Gradients are left to the loss scaler under float16, which skips the steps in which they overflow.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._batch_idx = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch, to run it again if its loss is bad."""
        self._batch, self._batch_idx = batch, batch_idx

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Check the loss.

        Raises:
            RunError: naming the step and the first bad parameter or layer.
        """
        assert isinstance(pl_module, QATModule)
        if torch.isfinite(loss):
            return
        if bad := nonfinite(pl_module.model.named_parameters()):
            raise RunError(_message(trainer, "the loss", f"{_some(bad)} held such values before it"))
        layer = self._first_bad_layer(pl_module)
        where = f"the first bad output is that of '{layer}'" if layer else "the output of every layer is finite"
        raise RunError(_message(trainer, "the loss", where))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradients.

        Raises:
            RunError: naming the step and the first parameters with a bad gradient.
        """
        assert isinstance(pl_module, QATModule)
        if trainer.precision == "16-mixed":
            return
        gradients = [(name, p.grad) for name, p in pl_module.model.named_parameters() if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm([gradient for _, gradient in gradients])):
            return
        if bad := nonfinite(gradients):
            raise RunError(_message(trainer, "a gradient", f"that of {_some(bad)}"))

    def _first_bad_layer(self, pl_module: QATModule) -> str | None:
        """Run the batch again and return the first module that turns finite inputs into a bad output."""
        found: list[str] = []

        def hook(name: str) -> Any:
            def check(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                # An attention mask may hold -inf on purpose.
                inputs = [value for key, value in kwargs.items() if "mask" not in key]
                if not found and _finite([args, inputs]) and not _finite(output):
                    found.append(name)

            return check

        # Inner modules return before the ones around them, so the first hit is the innermost.
        modules = [(name, module) for name, module in pl_module.model.named_modules() if name]
        handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules]
        pl_module.interpret_forward()
        try:
            with torch.no_grad():
                pl_module.on_train_batch_start(self._batch, self._batch_idx)
                with pl_module.trainer.precision_plugin.forward_context():
                    pl_module.training_step(self._batch, self._batch_idx)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else None


def nonfinite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold an infinity or a NaN."""
    return [name for name, tensor in named if not torch.isfinite(tensor).all()]


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every floating-point tensor in nested tuples, lists and dicts (a transformers output is a dict)."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{names[0]}'{more}"


def _message(trainer: pl.Trainer, what: str, where: str) -> str:
    precision = ", or set trainer.precision=32" if "mixed" in str(trainer.precision) else ""
    return (
        f"{what} of step {trainer.global_step + 1} is not finite: {where}; "
        f"lower optimizer.lr or optimizer.range_lr{precision}"
    )
