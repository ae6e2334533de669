"""What every observer shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from qat import grid
from qat.grid import ScaleFormat


@dataclass(frozen=True)
class GridSpec:
    """What an observer must know of the grid it sets a range for.

    Attributes:
        bits: bits of a code.
        symmetric: whether the range is ``[-limit, limit]``.
        scale_format: how the scale will be rounded.
        narrow_range: whether the lowest code is left out, see :func:`qat.grid.qrange`.
    """

    bits: int
    symmetric: bool
    scale_format: ScaleFormat
    narrow_range: bool = False

    def round_trip(self, groups: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Quantize and dequantize ``groups`` [rows, n_groups, k] with the range [rows, n_groups]."""
        ends = grid.qrange(self.bits, self.narrow_range)
        qmin, qmax = (torch.tensor(float(q), device=groups.device) for q in ends)
        if self.symmetric:
            scale, zero_point = grid.symmetric_scale(upper, qmax, self.scale_format), None
        else:
            scale, zero_point = grid.asymmetric_scale(lower, upper, qmin, qmax, self.scale_format)
        return grid.dequantize(grid.quantize(groups, scale, zero_point, qmin, qmax), scale, zero_point)


class Observer(ABC):
    """Sets a clip range.

    :meth:`range` is pure. A static activation is observed batch by batch; :meth:`combine` joins the batches.
    """

    @abstractmethod
    def range(self, groups: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the range, float32 [rows, n_groups], of ``groups`` float32 [rows, n_groups, k].

        For a symmetric grid the lower end is minus the upper end.
        """

    def combine(self, ends: Tensor) -> Tensor:
        """Join one end of the range over batches: float32 [batches, rows, n_groups] -> [rows, n_groups].

        The mean, as for moving-average observers; an outlier in one batch does not set the range.
        """
        return ends.mean(dim=0)


def extremes(groups: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Smallest range that holds every number of a group and zero."""
    if symmetric:
        limit = groups.abs().amax(dim=-1)
        return -limit, limit
    return groups.amin(dim=-1).clamp(max=0.0), groups.amax(dim=-1).clamp(min=0.0)
