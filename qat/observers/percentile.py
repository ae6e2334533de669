"""Percentile: the range that holds a given share of the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qat.errors import InputError
from qat.observers.base import GridSpec, Observer


@dataclass(frozen=True)
class Percentile(Observer):
    """Clips the largest ``1 - share`` of each group (arXiv:2004.09602, section 5.2).

    Args:
        share: share of the numbers inside the range; of the magnitudes for a symmetric grid, split evenly between
            both ends for an asymmetric one.

    Raises:
        InputError: a share outside (0.5, 1].
    """

    share: float = 0.999

    def __post_init__(self) -> None:
        if not 0.5 < self.share <= 1.0:
            raise InputError(f"observer.share is {self.share}; allowed is above 0.5 and at most 1")

    def range(self, groups: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
        """See :meth:`Observer.range`."""
        if spec.symmetric:
            limit = _nearest_rank(groups.abs(), self.share)
            return -limit, limit
        tail = (1.0 - self.share) / 2
        lower = -_nearest_rank(-groups, 1.0 - tail)
        return lower.clamp(max=0.0), _nearest_rank(groups, 1.0 - tail).clamp(min=0.0)


def _nearest_rank(groups: Tensor, share: float) -> Tensor:
    """Nearest-rank quantile over the last dimension; torch.quantile refuses more than 16M numbers."""
    size = groups.shape[-1]
    rank = min(size, max(1, round(share * size)))
    return torch.kthvalue(groups, rank, dim=-1).values
