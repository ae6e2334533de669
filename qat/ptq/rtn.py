"""Round to nearest: ranges from an observer, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qat.fake_quant import FakeQuantizer
from qat.observers import Observer
from qat.ptq.base import DataFreePTQ


@dataclass(frozen=True)
class RTN(DataFreePTQ):
    """Sets the range of every weight from the weight alone; needs no data.

    Args:
        observer: min-max is plain round to nearest; an MSE search clips where that loses less.
    """

    observer: Observer

    def set_range(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        """See :meth:`DataFreePTQ.set_range`."""
        quantizer.init_range(self.observer, weight)
