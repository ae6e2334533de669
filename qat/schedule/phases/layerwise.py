"""Quantize the model one transformer block after the other."""

from __future__ import annotations

from dataclasses import dataclass

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import BlockOrder, PrecisionState, check_block_order


@dataclass(frozen=True, kw_only=True)
class Layerwise(Phase):
    """The share of quantized blocks rises evenly to 1; a block that is quantized stays so.

    Of a model with ``N`` blocks, each is turned on at the start of its own ``1 / N`` of the way
    (:meth:`PrecisionState.quantized_blocks`): the first at the first step.

    Attributes:
        order: which block comes first: ``front_to_back`` (from the embedding on), ``back_to_front``, or all
            block numbers in the wanted order.
        until: share of the phase, above 0, at which every block is quantized.

    Raises:
        InputError: if ``order`` or ``until`` is out of range.
    """

    order: BlockOrder = "front_to_back"
    until: float = 1.0

    def validate(self) -> None:
        check_block_order(self.order, f"{self.kind}: order")
        if not 0 < self.until <= 1:
            raise InputError(f"{self.kind}: until={self.until} must be above 0 and at most 1")

    @property
    def edges(self) -> tuple[float, ...]:
        return (self.until,)

    def state(self, progress: float) -> PrecisionState:
        blocks = min(1.0, progress / self.until)
        return PrecisionState(self.kind, blocks=blocks, block_order=self.order)
