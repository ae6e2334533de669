"""GPTQ: round a weight column by column, and let the columns that are still to come make up for the error.

Frantar et al., arXiv:2210.17323. The error is that of the layer's output on calibration data, ``|| X W' - X Q' ||``, so
all that is needed of the data is the Hessian ``H = X' X`` of the layer's input. Rounding column ``i`` moves the
columns behind it by ``-(w_i - q_i) / U_ii * U_i,i+1:`` with ``U`` the upper Cholesky factor of ``H^-1`` (algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from compressed_tensors.quantization import QuantizationStrategy
from torch import Tensor

from qat import grid
from qat.errors import InputError, RunError
from qat.fake_quant.lsq import LSQFakeQuantizer
from qat.hosts import Host
from qat.observers import Observer
from qat.ptq.block import set_weights
from qat.ptq.blockwise import Block, BlockwisePTQ


@dataclass(frozen=True)
class GPTQ(BlockwisePTQ):
    """Rounds the weights of each block on the Hessian of their inputs, layer by layer in the order in which they run.

    Layers that read the same tensor share one Hessian; each sees its input as the layers before it, already quantized,
    give it, rounded where the scheme rounds activations dynamically. The weights are left on their grid, so that
    freezing gives the very codes that were chosen.

    Groups are ranges of the original columns in either order, so an export needs no index of groups.

    Args:
        observer: sets every range: those of groups from their columns as they are when their turn comes (with ``order:
            columns``), all others from the original weight.
        damping: share of the Hessian's mean diagonal that is added to its diagonal (section 3.3, step 3).
        order: ``columns`` takes them as they are stored; ``activations`` takes those with the largest inputs first,
            with ranges set beforehand.
        block_size: columns that are worked on before the rest is updated (section 3.3, step 2): a matter of speed only.
            Groups are not split, so it is rounded to whole ones.

    Raises:
        InputError: ``damping`` outside (0, 1] or ``block_size`` below 1.
    """

    damping: float = 0.01
    order: Literal["activations", "columns"] = "columns"
    block_size: int = 128

    def __post_init__(self) -> None:
        if not 0.0 < self.damping <= 1.0:
            raise InputError(f"ptq.damping is {self.damping}; allowed is above 0 and at most 1")
        if self.order not in ("activations", "columns"):
            raise InputError(f"ptq.order is '{self.order}'; allowed are activations, columns")
        if self.block_size < 1:
            raise InputError(f"ptq.block_size is {self.block_size}; allowed is 1 or more")

    def quantize_block(self, block: Block) -> None:
        """See :meth:`BlockwisePTQ.quantize_block`."""
        for names in _same_input(block):
            hessian = _hessian(block, names[0])
            for name in names:
                self.quantize_host(name, block.hosts[name], hessian)
            set_weights((block.hosts[name] for name in names), on=True)

    def quantize_host(self, name: str, host: Host, hessian: Tensor) -> None:
        """Put the weight of one linear on its grid, and set its ranges.

        Args:
            name: for errors.
            host: weight float32 [out, in].
            hessian: float32 [in, in], of any positive scale.

        Raises:
            InputError: a fake quantizer whose ranges cannot be set.
            RunError: a weight or Hessian that is not finite, or a Hessian that says nothing.
        """
        quantizer = host.weight_fake_quantizer
        if not isinstance(quantizer, LSQFakeQuantizer):
            raise InputError(
                f"ptq=gptq sets ranges, and the {type(quantizer).__name__} of {name} has none; take fake_quantizer=lsq"
            )
        if not bool(torch.isfinite(host.weight).all()):
            raise RunError(f"{name}.weight holds numbers that are not finite, so it cannot be quantized")
        factor, order = self._factor(name, hessian)
        quantizer.init_range(self.observer, host.weight)
        columns = _Columns(host.weight.detach().clone(), quantizer, self.observer, adaptive=self.order == "columns")
        host.weight.copy_(columns.rounded(factor, order, self.block_size))

    def _factor(self, name: str, hessian: Tensor) -> tuple[Tensor, Tensor]:
        """The upper Cholesky factor of the damped inverse Hessian, and the order of its columns."""
        diagonal = hessian.diagonal().double()
        if not bool(torch.isfinite(hessian).all()):
            raise RunError(f"the input of {name} is not finite on the calibration data; the model overflows")
        if not bool((diagonal > 0).any()):
            raise RunError(f"the input of {name} is zero on all calibration data; use other data, or ignore the layer")
        # A channel that is always zero has no say in the others, and rounds to nearest.
        damped = hessian.double() + torch.diag(torch.where(diagonal > 0, self.damping * diagonal.mean(), 1.0))
        order = torch.arange(len(damped), device=damped.device)
        if self.order == "activations":
            order = torch.argsort(diagonal, descending=True, stable=True)
        # Cholesky of the inverse of a matrix is what float32 is too coarse for.
        lower, failed = torch.linalg.cholesky_ex(damped[order][:, order])
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if failed:
            raise RunError(
                f"the Hessian of {name} has no Cholesky factor with ptq.damping={self.damping}; raise it to 0.1, or "
                "calibration_batches"
            )
        return factor.float(), order


class _Columns:
    """The columns of one weight on their way to the grid.

    Args:
        weight: float32 [out, in]; worked on in place.
        quantizer: with ranges from the original weight.
        observer: sets the ranges of groups anew if ``adaptive``.
        adaptive: see ``observer``.
    """

    def __init__(self, weight: Tensor, quantizer: LSQFakeQuantizer, observer: Observer, adaptive: bool) -> None:
        self._weight = weight
        self._quantizer = quantizer
        self._observer = observer
        grouped = quantizer.args.strategy == QuantizationStrategy.GROUP
        self._group_size: int = quantizer.args.group_size if grouped else weight.shape[1]
        self._adaptive = adaptive and grouped
        self._scale, self._zero_point = quantizer.scale_and_zero_point(weight)

    def rounded(self, factor: Tensor, order: Tensor, block_size: int) -> Tensor:
        """The weight on its grid, float32 [out, in].

        Args:
            factor: upper triangular [in, in], its columns in ``order``.
            order: int64 [in]: the column of the weight that comes first, second, ...
            block_size: see :class:`GPTQ`.
        """
        weight, total = self._weight[:, order], len(order)
        result = torch.empty_like(weight)
        width = max(1, block_size // self._group_size) * self._group_size if self._adaptive else block_size
        for start in range(0, total, width):
            end = min(start + width, total)
            errors = torch.empty_like(weight[:, start:end])
            for i in range(start, end):
                group = int(order[i]) // self._group_size
                if self._adaptive and i % self._group_size == 0:
                    self._set_group(group, weight[:, i : i + self._group_size])
                result[:, i] = self._round(weight[:, i], group)
                error = (weight[:, i] - result[:, i]) / factor[i, i]
                weight[:, i + 1 : end] -= torch.outer(error, factor[i, i + 1 : end])
                errors[:, i - start] = error
            weight[:, end:] -= errors @ factor[start:end, end:]
        return result[:, torch.argsort(order)]

    def _set_group(self, group: int, columns: Tensor) -> None:
        """Set the range of one group anew, from its columns [out, group_size] as they are by now."""
        ends = self._observer.range(columns.unsqueeze(1), self._quantizer.spec)
        for parameter, end in zip(self._quantizer.ranges(), ends[-len(self._quantizer.ranges()) :], strict=True):
            parameter[:, group] = end[:, 0]  # of a symmetric range only the upper end is kept
        self._scale, self._zero_point = self._quantizer.scale_and_zero_point(columns)

    def _round(self, column: Tensor, group: int) -> Tensor:
        """The grid's values next to one column [out] of a group."""
        own, quantizer = slice(group, group + 1), self._quantizer
        scale = self._scale[:, own]
        zero_point = None if self._zero_point is None else self._zero_point[:, own]
        codes = grid.quantize(column.reshape(-1, 1, 1), scale, zero_point, quantizer.qmin, quantizer.qmax)
        return grid.dequantize(codes, scale, zero_point).flatten()


def _same_input(block: Block) -> list[list[str]]:
    """Names of the linears with one Hessian: they read one tensor, and round it alike if they do."""
    shared: list[list[str]] = []
    for names in block.groups:
        by_rounding: dict[str, list[str]] = {}
        for name in names:
            args = block.hosts[name].quantization_scheme.input_activations
            by_rounding.setdefault(repr(args), []).append(name)
        shared += by_rounding.values()
    return shared


def _hessian(block: Block, name: str) -> Tensor:
    """``X' X`` of the input of a linear over all batches, float32 [in, in]."""
    columns = block.hosts[name].weight.shape[1]
    total = torch.zeros(columns, columns, device=block.hosts[name].weight.device)

    def add(_: str, x: Tensor) -> None:
        rows = x.reshape(-1, columns).float()
        total.addmm_(rows.t(), rows)

    block.inputs_of([name], add, rounded=True)
    return total
