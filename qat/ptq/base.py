"""What every PTQ algorithm does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import nn


class PTQ(ABC):
    """A post-training quantization algorithm; ``configs/ptq/*.yaml`` point at its subclasses."""

    @abstractmethod
    def run(self, model: nn.Module, batches: Iterable[dict[str, Any]]) -> None:
        """Set the ranges and/or the weights of a prepared model, in place.

        Args:
            model: prepared by :func:`qat.prepare.prepare`, on any device.
            batches: calibration batches, keyword arguments of the model; an algorithm may leave them unread.
        """
