"""AdamW with separate groups for weights and clip ranges, and a rate that is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from qat.errors import InputError

WEIGHTS, RANGES = "weights", "ranges"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv:1711.05101) and its rate.

    Attributes:
        lr: highest rate of the weights.
        range_lr: highest rate of the learned clip ranges. Adam moves a parameter by about its rate each
            step, whatever its gradient, so it is in the units of the ranges themselves.
        weight_decay: for weights of two or more dimensions. Biases, norms and ranges are never decayed: a
            range that decays clips the weights it should cover.
        betas: Adam's decay rates of the two moments.
        eps: Adam's addend in the denominator.
        warmup: share of the run in which the rate rises linearly from 0.
        schedule: how the rate falls after that.
        final_lr_share: the last rate as a share of the highest.

    Raises:
        InputError: if a value is outside its range.
    """

    lr: float = 1e-3
    range_lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    warmup: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr_share: float = 0.1

    def __post_init__(self) -> None:
        for name in ("lr", "range_lr", "weight_decay"):
            if getattr(self, name) < 0:
                raise InputError(f"optimizer.{name}={getattr(self, name)} must be 0 or more")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optimizer.betas={list(self.betas)} must be two numbers from 0 to below 1")
        if self.eps <= 0:
            raise InputError(f"optimizer.eps={self.eps} must be above 0")
        for name in ("warmup", "final_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"optimizer.{name}={getattr(self, name)} must be a share from 0 to 1")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise InputError(f"optimizer.schedule={self.schedule!r} must be cosine, linear or constant")


def rate_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The rate of optimizer step ``step`` (from 0) as a share of the highest one.

    Example:
        >>> [rate_factor(OptimizerConfig(warmup=0.5, schedule="linear", final_lr_share=0.0), s, 4)
        ...  for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    fall = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return config.final_lr_share + (1.0 - config.final_lr_share) * fall


def parameter_groups(model: nn.Module, ranges: Iterable[nn.Parameter], config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split the trainable parameters by rate and decay; empty groups are left out.

    Returns:
        AdamW groups with a ``name`` (``weights``, ``weights_no_decay``, ``ranges``) and a ``kind``
        (``weights`` or ``ranges``) that says what a schedule freezes together.
    """
    range_ids = {id(parameter) for parameter in ranges}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if id(parameter) not in range_ids]
    groups = [
        ("weights", WEIGHTS, config.lr, config.weight_decay, [p for p in weights if p.ndim >= 2]),
        ("weights_no_decay", WEIGHTS, config.lr, 0.0, [p for p in weights if p.ndim < 2]),
        ("ranges", RANGES, config.range_lr, 0.0, [p for p in trained if id(p) in range_ids]),
    ]
    return [
        {"name": name, "kind": kind, "lr": lr, "weight_decay": decay, "params": parameters}
        for name, kind, lr, decay, parameters in groups
        if parameters
    ]


def build_optimizer(
    model: nn.Module, ranges: Iterable[nn.Parameter], config: OptimizerConfig, *, fused: bool
) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`.

    Args:
        model: the model to train, prepared or float.
        ranges: its learned clip ranges; none for a float model.
        config: rates and decay.
        fused: one kernel for all tensors. Off under float16 loss scaling, where that kernel would unscale the
            gradients itself, after clipping had seen them scaled.

    Raises:
        InputError: if nothing is trainable.
    """
    groups = parameter_groups(model, ranges, config)
    if not groups:
        raise InputError("the model has no trainable parameter; check that it is not frozen")
    # Plain floats in a tuple, whatever a config gave: a checkpoint holds them, and it loads no other class.
    beta1, beta2 = (float(beta) for beta in config.betas)
    return torch.optim.AdamW(groups, betas=(beta1, beta2), eps=float(config.eps), fused=fused)


def build_rate(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> LambdaLR:
    """A scheduler that sets every group's rate to its highest times ``factor(step)``: no other state."""
    return LambdaLR(optimizer, factor)


def parameters(optimizer: torch.optim.Optimizer, kind: str) -> Iterator[nn.Parameter]:
    """Those of the groups of ``kind``: ``WEIGHTS`` or ``RANGES``."""
    return (one for group in optimizer.param_groups if group["kind"] == kind for one in group["params"])


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Keep ``parameters`` out of the coming optimizer step.

    Dropping the gradient is the one way that touches nothing: with a zero gradient AdamW would still decay
    the weights, move them by their momentum and age both moments, and with a zero rate age the moments.
    """
    for parameter in parameters:
        parameter.grad = None
