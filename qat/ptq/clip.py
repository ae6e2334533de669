"""Clip search on a layer's output: the least squared error, each number counting as much as it is used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qat.errors import InputError
from qat.observers import GridSpec, Observer
from qat.observers.base import extremes


@dataclass(frozen=True)
class OutputMSE(Observer):
    """Tries shares of the min-max range and keeps, group by group, the one that changes the layer's output least.

    With ``D = Q(W) - W`` and the Gram matrix ``H = X^T X`` of the layer's inputs, the change of the output is
    ``|X D^T|^2 = tr(D H D^T)``. A group counts only its own block of ``H``, so it can be chosen by itself, as in the
    clip search of AWQ's code (arXiv:2306.00978, section 5.1); with one scale a channel nothing is left out.

    Args:
        gram: float32 [in, in].
        candidates: number of shares tried, evenly spaced.
        smallest: smallest share of the min-max range.

    Raises:
        InputError: fewer than 2 candidates, or ``smallest`` outside (0, 1).
    """

    gram: Tensor
    candidates: int = 36
    smallest: float = 0.3

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise InputError(f"candidates is {self.candidates}; at least 2 are needed to search")
        if not 0.0 < self.smallest < 1.0:
            raise InputError(f"smallest is {self.smallest}; allowed is a share between 0 and 1")

    def range(self, groups: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
        """See :meth:`Observer.range`; ``groups`` are those of a whole weight."""
        lower, upper = extremes(groups, spec.symmetric)
        best = torch.full_like(upper, float("inf"))
        best_share = torch.ones_like(upper)
        # From 1 downwards, so that of two equal errors the wider range wins.
        for share in torch.linspace(1.0, self.smallest, self.candidates).tolist():
            error = self.error(spec.round_trip(groups, lower * share, upper * share) - groups)
            better = error < best
            best = torch.where(better, error, best)
            best_share = torch.where(better, share, best_share)
        return lower * best_share, upper * best_share

    def error(self, difference: Tensor) -> Tensor:
        """``d H d^T`` of every group, [rows, n_groups], for differences [rows, n_groups, k]."""
        _, n_groups, k = difference.shape
        columns = len(self.gram)
        if k > columns:  # one scale a tensor: its group is all rows
            return self.error(difference.reshape(-1, 1, columns)).sum().reshape(1, 1)
        blocks = self.gram.reshape(n_groups, k, n_groups, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        by_group = difference.transpose(0, 1)
        return ((by_group @ blocks) * by_group).sum(-1).T
