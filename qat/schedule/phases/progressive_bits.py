"""Lower the weight bits in stretches, keeping the learned ranges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import TOLERANCE, PrecisionState, check_bits, check_share


@dataclass(frozen=True, kw_only=True)
class ProgressiveBits(Phase):
    """Everything is quantized; the weight bits go through ``bits``, one stretch of the phase each.

    A bit width is a lower bound on the scheme's own: at 6, a scheme's 4-bit weights are rounded to 6 bits and
    its 8-bit weights to 8. Clip ranges carry over, since a scale is ``range / qmax(bits)``.
    Method: Zhuang et al., "Towards Effective Low-bitwidth Convolutional Neural Networks", arXiv:1711.00205.

    Attributes:
        bits: weight bits, 2 to 8 each, in the order in which they are used.
        shares: the stretches as shares of the phase, adding up to 1; None makes them equally long.

    Raises:
        InputError: if ``bits`` is empty or out of range, or ``shares`` does not fit it.
    """

    bits: tuple[int, ...]
    shares: tuple[float, ...] | None = None

    def validate(self) -> None:
        if not self.bits:
            raise InputError(f"{self.kind}: bits=[] must name at least one bit width, for example [8, 6, 4]")
        for bits in self.bits:
            check_bits(bits, f"{self.kind}: bits")
        if self.shares is None:
            return
        for share in self.shares:
            check_share(share, f"{self.kind}: shares")
        if len(self.shares) != len(self.bits) or abs(sum(self.shares) - 1) > TOLERANCE:
            raise InputError(
                f"{self.kind}: shares={list(self.shares)} must be {len(self.bits)} shares, one for each of "
                f"bits={list(self.bits)}, that add up to 1"
            )

    @property
    def edges(self) -> tuple[float, ...]:
        if self.shares is None:
            return tuple(i / len(self.bits) for i in range(1, len(self.bits)))
        return tuple(accumulate(self.shares[:-1]))

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, weight_bits=self.bits[self.part(progress)])
