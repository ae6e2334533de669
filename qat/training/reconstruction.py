"""One block of the model beside the same block of the float model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qat.errors import InputError
from qat.hosts import block_index, hosts


class Reconstruction:
    """Runs both models up to a block, and that block of the model with gradients.

    Args:
        model: the prepared model.
        teacher: the float model that it was made from.

    Raises:
        InputError: if the model has no numbered blocks with something quantized in them.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module) -> None:
        self.model, self.teacher = model, teacher
        self.names = block_names(model)
        if not self.names:
            raise InputError(f"{type(model).__name__} has no blocks to train one after another; use another phase")

    def error(self, block: int, inputs: dict[str, Any]) -> Tensor:
        """Mean squared error between the output of ``block`` and that of the float block, a float32 scalar.

        The float block's input is that of the float model, the block's own that of the quantized blocks before it
        (EfficientQAT's implementation of arXiv:2407.11062, section 3.2). Only the block itself is
        differentiated, and no block behind it runs.

        Args:
            block: index of the block.
            inputs: keyword arguments of both models.
        """
        name = self.names[block]
        own = self.model.get_submodule(name)
        args, kwargs, _ = _run_until(self.model, own, inputs, behind=False)
        _, _, wanted = _run_until(self.teacher, self.teacher.get_submodule(name), inputs, behind=True)
        return functional.mse_loss(_states(own(*args, **kwargs)).float(), wanted.float())


def block_names(model: nn.Module) -> list[str]:
    """Full names of the transformer blocks that hold something quantized, in order.

    Example:
        A Llama of two blocks gives ``["model.layers.0", "model.layers.1"]``.
    """
    found: dict[int, str] = {}
    for name in hosts(model):
        if (index := block_index(name)) is not None:
            parts = name.split(".")
            found[index] = ".".join(parts[: parts.index(str(index)) + 1])
    return [found[index] for index in sorted(found)]


class _Reached(Exception):
    """The block has been reached, and the rest of the model need not run."""


@torch.no_grad()
def _run_until(
    model: nn.Module, block: nn.Module, inputs: dict[str, Any], *, behind: bool
) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """Arguments of ``block`` while ``model`` runs; with ``behind`` its output too, else an empty tensor."""
    seen: list[Any] = []

    def stop(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        seen.extend((args, kwargs, torch.empty(0) if output is None else _states(output)))
        raise _Reached

    register = block.register_forward_hook if behind else block.register_forward_pre_hook
    handle = register(stop, with_kwargs=True)
    try:
        model(**inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    args, kwargs, output = seen
    return args, kwargs, output


def _states(output: Any) -> Tensor:
    """The hidden states of what a block gives: a tensor, or a tuple that begins with one."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states
