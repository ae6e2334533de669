"""MSE search: the range whose rounding loses least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qat.errors import InputError
from qat.observers.base import GridSpec, Observer, extremes


@dataclass(frozen=True)
class MSE(Observer):
    """Tries shares of the min-max range and keeps, group by group, the one with the least squared error.

    Clipping a few large numbers lets all others have a finer grid (OCTAV, arXiv:2206.06501; the search is that of
    AWQ's and GPTQ's code). The error is measured on the rounded scale, so on the grid that is stored.

    Args:
        candidates: number of shares tried, evenly spaced.
        smallest: smallest share of the min-max range.

    Raises:
        InputError: fewer than 2 candidates, or ``smallest`` outside (0, 1).
    """

    candidates: int = 100
    smallest: float = 0.1

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise InputError(f"observer.candidates is {self.candidates}; at least 2 are needed to search")
        if not 0.0 < self.smallest < 1.0:
            raise InputError(f"observer.smallest is {self.smallest}; allowed is a share between 0 and 1")

    def range(self, groups: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
        """See :meth:`Observer.range`."""
        lower, upper = extremes(groups, spec.symmetric)
        best = torch.full_like(upper, float("inf"))
        best_share = torch.ones_like(upper)
        # From 1 downwards, so that of two equal errors the wider range wins.
        for share in torch.linspace(1.0, self.smallest, self.candidates).tolist():
            error = (spec.round_trip(groups, lower * share, upper * share) - groups).square().sum(dim=-1)
            better = error < best
            best = torch.where(better, error, best)
            best_share = torch.where(better, share, best_share)
        return lower * best_share, upper * best_share
