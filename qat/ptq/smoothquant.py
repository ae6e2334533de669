"""SmoothQuant: move the outliers of activations into the weights, where they are easier to round.

Xiao, Lin, Seznec, Wu, Demouth, Han: "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", arXiv:2211.10438, equation 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from qat.errors import InputError
from qat.observers import Observer
from qat.ptq.block import Block
from qat.ptq.blockwise import BlockwisePTQ
from qat.ptq.find_folds import find_folds
from qat.ptq.fold import Fold, apply_exact


@dataclass(frozen=True)
class SmoothQuant(BlockwisePTQ):
    """Folds the scale ``s = max|X| ** alpha / max|W| ** (1 - alpha)`` into each group that allows it.

    Args:
        observer: sets the ranges of the weights once they are scaled.
        alpha: how much of the difficulty moves to the weights: 0 none of the activations', 1 all of it.
        norms_only: scale only what follows a norm, as the paper does; False scales ``o_proj`` and ``down_proj`` too,
            through the linears before them.

    Raises:
        InputError: ``alpha`` outside 0 to 1; when run, a scheme that leaves activations float, or a block that allows
            no scale.
    """

    observer: Observer
    alpha: float = 0.5
    norms_only: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise InputError(f"ptq.alpha is {self.alpha}; allowed is 0 to 1")

    def quantize_block(self, block: Block) -> None:
        """See :meth:`BlockwisePTQ.quantize_block`."""
        if not any(_has_activations(host) for host in block.hosts.values()):
            raise InputError(
                f"smoothquant prepares activations for rounding, and the scheme leaves those of {block.name} float; "
                "take ptq=awq, or a scheme with input_activations such as w8a8"
            )
        run = partial(block, block.batches[0])
        found = find_folds(block.module, run)
        folds = [fold for fold in found.exact if self._wants(fold)]
        if not folds:
            raise InputError(
                f"no norm of {block.name} can be scaled without changing the model, so smoothquant would do nothing; "
                "take ptq=rtn_mse"
            )
        largest = _largest_inputs(block)
        for fold in folds:
            first = f"{block.name}.{next(name for name, host in fold.consumers.items() if _has_activations(host))}"
            scale = fold.snapped(self.scale_of(fold, largest[first]))
            apply_exact(fold, scale, block.module, run, found.output)
        for host in block.hosts.values():
            host.weight_fake_quantizer.init_range(self.observer, host.weight)

    def _wants(self, fold: Fold) -> bool:
        allowed = not (self.norms_only and isinstance(fold.producer, nn.Linear))
        return allowed and any(_has_activations(host) for host in fold.consumers.values())

    def scale_of(self, fold: Fold, largest: Tensor) -> Tensor:
        """Equation 4 for a group of linears: [size], from the largest input of each channel, [in].

        Channels that share a number of the scale count with their largest; a channel without inputs or weights keeps 1.
        """
        weights = torch.stack([linear.weight.abs().amax(0) for linear in fold.consumers.values()]).amax(0)
        x, w = fold.shared(largest, "amax"), fold.shared(weights, "amax")
        scale = x**self.alpha / w ** (1 - self.alpha)
        return torch.where((x > 0) & (w > 0), scale, 1.0)


def _has_activations(host: nn.Module) -> bool:
    return getattr(host, "activation_fake_quantizer", None) is not None


def _largest_inputs(block: Block) -> dict[str, Tensor]:
    """Largest absolute input of each channel, float32 [in], of each host with quantized activations."""
    largest: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        seen = x.abs().reshape(-1, x.shape[-1]).amax(0).float()
        largest[name] = torch.maximum(largest[name], seen) if name in largest else seen

    names: Iterable[str] = (name for name, host in block.hosts.items() if _has_activations(host))
    block.inputs_of(names, see)
    return largest
