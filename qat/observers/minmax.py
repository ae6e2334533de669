"""Min-max: the range holds every number."""

from __future__ import annotations

from torch import Tensor

from qat.observers.base import GridSpec, Observer, extremes


class MinMax(Observer):
    """The smallest range that clips nothing (arXiv:1712.05877, section 3).

    Example:
        >>> MinMax().range(torch.tensor([[[-1.0, 0.5]]]), spec)  # symmetric
        (tensor([[-1.]]), tensor([[1.]]))
    """

    def range(self, groups: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
        """See :meth:`Observer.range`."""
        return extremes(groups, spec.symmetric)

    def combine(self, ends: Tensor) -> Tensor:
        """The widest end over all batches, since nothing may be clipped."""
        lowest, highest = ends.amin(dim=0), ends.amax(dim=0)
        return lowest.where(lowest.abs() > highest.abs(), highest)
