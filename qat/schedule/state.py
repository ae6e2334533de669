"""What is quantized at one training step, as plain values without tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qat.errors import InputError

MIN_BITS = 2
MAX_BITS = 8

# Two step counts of the same share of a run may differ by rounding errors of this size, far below one step.
TOLERANCE = 1e-9

BlockOrder: TypeAlias = Literal["front_to_back", "back_to_front"] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrecisionState:
    """The precision of the model during one step. The defaults are the scheme itself, fully on.

    Attributes:
        phase: name of the phase in the schedule that the state belongs to.
        weight_bits: lower bound on the scheme's own weight bits (a weight of ``b`` bits in the scheme is
            rounded to ``max(b, weight_bits)`` bits); None keeps the scheme's bits.
        weights: fake quantizers of weights are on.
        activations: fake quantizers of activations are on.
        mix: where a fake quantizer is on, it gives ``(1 - mix) * float + mix * quantized``.
        blocks: share in [0, 1] of the transformer blocks that are quantized, see :meth:`quantized_blocks`;
            modules outside the blocks (embedding, head) are when all blocks are.
        block_order: the order in which ``blocks`` counts them.
        observe: the clip ranges of static activations widen to the data that passes.
        freeze_weights: every parameter but the clip ranges keeps its value.
        freeze_ranges: the clip ranges are not trained; those of a fake quantizer that is off never are.
        lr_scale: factor on every learning rate, on top of the optimizer's own schedule.
        reconstruct: None, or how far the training of one block after another is, above 0 to 1: only the block
            at it is trained, to give what the float model's block gives, see :meth:`active_block`.
        dampening: factor, 0 or more, on the squared distance of the weights from their grid in the loss.

    Raises:
        InputError: if a number is outside its range.
    """

    phase: str
    weight_bits: int | None = None
    weights: bool = True
    activations: bool = True
    mix: float = 1.0
    blocks: float = 1.0
    block_order: BlockOrder = "front_to_back"
    observe: bool = False
    freeze_weights: bool = False
    freeze_ranges: bool = False
    lr_scale: float = 1.0
    reconstruct: float | None = None
    dampening: float = 0.0

    def __post_init__(self) -> None:
        where = f"phase '{self.phase}'"
        if self.weight_bits is not None:
            check_bits(self.weight_bits, f"{where}: weight_bits")
        check_share(self.mix, f"{where}: mix")
        check_share(self.blocks, f"{where}: blocks")
        check_block_order(self.block_order, f"{where}: block_order")
        for name in ("lr_scale", "dampening"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{where}: {name}={getattr(self, name)} must be 0 or more")
        if self.reconstruct is not None:
            check_share(self.reconstruct, f"{where}: reconstruct")

    @property
    def quantizes(self) -> bool:
        """Whether anything at all is fake-quantized."""
        return (self.weights or self.activations) and self.mix > 0 and self.blocks > 0

    @property
    def trains_ranges_only(self) -> bool:
        """Whether the clip ranges are trained and nothing else is."""
        return self.freeze_weights and not self.freeze_ranges

    def active_block(self, num_blocks: int) -> int | None:
        """Index of the block that is trained alone; None where the model is trained as a whole.

        Each of the ``num_blocks`` transformer blocks has its own equal part of the way, in the model's order.

        Example:
            >>> [PrecisionState("blocks", reconstruct=step / 6).active_block(3) for step in range(1, 7)]
            [0, 0, 1, 1, 2, 2]
        """
        if self.reconstruct is None:
            return None
        return max(0, math.ceil(self.reconstruct * num_blocks - TOLERANCE) - 1)

    def quantized_blocks(self, num_blocks: int) -> tuple[int, ...]:
        """Indices of the blocks that are quantized, in the order in which they were turned on.

        The number is ``ceil(blocks * num_blocks)``: while ``blocks`` rises evenly over a phase, every block
        is turned on at the start of its own equal stretch, and the last one is on for a stretch too.

        Args:
            num_blocks: number of transformer blocks of the model.

        Raises:
            InputError: if an explicit order does not name every block of the model once.

        Example:
            >>> PrecisionState("main", blocks=0.5, block_order="back_to_front").quantized_blocks(4)
            (3, 2)
        """
        order: tuple[int, ...]
        if self.block_order == "front_to_back":
            order = tuple(range(num_blocks))
        elif self.block_order == "back_to_front":
            order = tuple(reversed(range(num_blocks)))
        else:
            order = tuple(int(block) for block in self.block_order)
            if sorted(order) != list(range(num_blocks)):
                raise InputError(
                    f"phase '{self.phase}': order={list(order)} must name each of the model's "
                    f"{num_blocks} blocks (0 to {num_blocks - 1}) once"
                )
        return order[: math.ceil(self.blocks * num_blocks - TOLERANCE)]


def check_bits(bits: int, what: str) -> None:
    """Refuse bits that no fake quantizer has.

    Raises:
        InputError: unless ``bits`` is an integer from 2 to 8.
    """
    if not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"{what}={bits} must be an integer from {MIN_BITS} to {MAX_BITS}")


def check_share(share: float, what: str) -> None:
    """Refuse what is not a share.

    Raises:
        InputError: unless ``0 <= share <= 1``.
    """
    if not 0 <= share <= 1:
        raise InputError(f"{what}={share} must be a share from 0 to 1")


def check_block_order(order: BlockOrder, what: str) -> None:
    """Refuse an order that is neither a named one nor a list of different block indices.

    Raises:
        InputError: naming the two named orders and the form of an explicit one.
    """
    if order in ("front_to_back", "back_to_front"):
        return
    if isinstance(order, str) or not order or min(order) < 0 or len(set(order)) != len(order):
        shown = order if isinstance(order, str) else list(order)
        raise InputError(
            f"{what}={shown} must be front_to_back, back_to_front or a list of different block numbers from 0"
        )
