"""Round to nearest: ranges from an observer, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from qat.hosts import hosts
from qat.observers import Observer
from qat.ptq.base import PTQ


@dataclass(frozen=True)
class RTN(PTQ):
    """Sets the range of every weight from the weight alone; needs no data.

    Args:
        observer: min-max is plain round to nearest; an MSE search clips where that loses less.
    """

    observer: Observer

    def run(self, model: nn.Module, batches: Iterable[dict[str, Any]]) -> None:
        """See :meth:`PTQ.run`."""
        for host in hosts(model).values():
            host.weight_fake_quantizer.init_range(self.observer, host.weight)
