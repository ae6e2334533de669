"""GPT-2's ``Conv1D`` is a linear layer stored transposed; here it becomes ``nn.Linear`` like all others."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def to_linear(model: nn.Module) -> list[str]:
    """Swap every ``Conv1D`` (weight ``[in, out]``) for ``nn.Linear`` (weight ``[out, in]``), same numbers.

    Returns:
        The full names that were swapped, so that an exporter can transpose their weights back; empty when
        there was nothing (more) to swap.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _linear(model.get_submodule(name)))
    return names


def stored_transposed(model: nn.Module) -> list[str]:
    """Full names of the modules that transformers itself builds as ``Conv1D``, whatever they are now.

    A weight ``[out, in]`` of these must be written as ``[in, out]`` for transformers to load it. Derived from
    the model's class and config: it needs no record of :func:`to_linear` and holds after other swaps.
    """
    if not isinstance(model, PreTrainedModel):
        return []
    with torch.device("meta"):
        twin = type(model)(model.config)
    return [name for name, module in twin.named_modules() if isinstance(module, Conv1D)]


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, Conv1D)
    rows, columns = module.nf, module.nx
    with torch.device("meta"):
        linear = nn.Linear(columns, rows)
    linear.weight = nn.Parameter(module.weight.detach().t().contiguous(), module.weight.requires_grad)
    linear.bias = module.bias
    return linear.train(module.training)
