"""What every PTQ algorithm does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from qat.fake_quant import FakeQuantizer
from qat.hosts import hosts
from qat.ptq.store import BlockStore


class PTQ(ABC):
    """A post-training quantization algorithm; ``configs/ptq/*.yaml`` point at its subclasses."""

    @abstractmethod
    def run(self, model: nn.Module, batches: Iterable[dict[str, Any]], store: BlockStore | None = None) -> None:
        """Set the ranges and/or the weights of a prepared model, in place.

        Afterwards the model as :meth:`~qat.checkpoint.QuantizedCheckpoint.freeze` reads it is the result.

        Args:
            model: prepared by :func:`qat.prepare.prepare`, on any device.
            batches: calibration batches, keyword arguments of the model; an algorithm may leave them unread.
            store: where an algorithm that works block by block keeps finished blocks, to go on after an interruption;
                others leave it alone.
        """


class DataFreePTQ(PTQ):
    """An algorithm that sets the range of a weight from that weight alone.

    It needs neither data nor the rest of the model, so it also works on a model that does not fit in memory:
    :func:`qat.ptq.stream.stream` shows it a few rows of a weight at a time.
    """

    @abstractmethod
    def set_range(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        """Set the range of ``quantizer`` from ``weight``.

        The range of a row (channel, group) may depend on the numbers of that row only, as its scale does.

        Args:
            quantizer: of the weight.
            weight: float [out, in], or some of its rows with a quantizer for as many.
        """

    def run(self, model: nn.Module, batches: Iterable[dict[str, Any]], store: BlockStore | None = None) -> None:
        """See :meth:`PTQ.run`."""
        for host in hosts(model).values():
            self.set_range(host.weight_fake_quantizer, host.weight)
