"""One way to call whatever is evaluated: a module, a fake-quantized module, or a real engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast, get_args

import torch
from torch import Tensor, nn

from qat.errors import InputError, nearest
from qat.models.loaded import Task

Forward = Callable[[Tensor], Tensor]
"""Token ids int64[batch, length] to logits float[batch, length, width], or to an encoder's hidden states."""


def check_task(task: str) -> Task:
    """Return ``task`` if it is one of ``causal_lm``, ``masked_lm``, ``encoder``.

    Raises:
        InputError: for another name.
    """
    if task not in get_args(Task):
        raise InputError(f"task '{task}' is not one of {', '.join(get_args(Task))}{nearest(task, get_args(Task))}")
    return cast(Task, task)


def outputs(model: nn.Module | Forward, input_ids: Tensor) -> Tensor:
    """Logits ``[batch, length, vocabulary]`` of a language model, last hidden states of an encoder.

    A module gets the tokens on its own device; another callable is called as it is.
    """
    if not isinstance(model, nn.Module):
        return model(input_ids)
    parameter = next(model.parameters(), None)
    result = model(input_ids=input_ids if parameter is None else input_ids.to(parameter.device))
    logits = getattr(result, "logits", None)
    return cast(Tensor, result.last_hidden_state if logits is None else logits)


@contextlib.contextmanager
def evaluating(*models: nn.Module | Forward | None) -> Iterator[None]:
    """No gradients and no dropout inside; every module gets its train/eval mode back afterwards.

    Modes are kept per submodule: a frozen part that was in eval mode stays so. Not inference mode: what a
    module caches in it could not be used in training afterwards.
    """
    modules = [part for model in models if isinstance(model, nn.Module) for part in model.modules()]
    modes = [part.training for part in modules]
    try:
        for part in modules:
            part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode
