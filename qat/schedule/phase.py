"""The base of every phase: how long it is and what it makes of its progress."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from qat.errors import InputError
from qat.schedule.state import TOLERANCE, PrecisionState, check_share


@dataclass(frozen=True, kw_only=True)
class Phase(ABC):
    """One stretch of a schedule.

    A new phase is a frozen dataclass in ``qat/schedule/phases/<name>.py`` that derives from this one, and a
    YAML ``configs/phase/<name>.yaml``; its fields are its options.

    Attributes:
        steps: length in optimizer steps, or None.
        share: length as a share of all steps, or None. A phase with neither takes the steps that the
            others leave; a length of 0 skips the phase.

    Raises:
        InputError: if both are given or one is out of range.
    """

    steps: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.share is not None:
            raise InputError(f"{self.kind}: steps={self.steps} and share={self.share}; keep one of them")
        if self.steps is not None and self.steps < 0:
            raise InputError(f"{self.kind}: steps={self.steps} must be 0 or more")
        if self.share is not None:
            check_share(self.share, f"{self.kind}: share")
        self.validate()

    def validate(self) -> None:  # noqa: B027 - a phase without options of its own has nothing to check
        """Check the phase's own options; called once after construction.

        Raises:
            InputError: naming the option, its value and what is allowed.
        """

    @abstractmethod
    def state(self, progress: float) -> PrecisionState:
        """The state at ``progress`` through the phase; a pure function.

        Args:
            progress: local step ``k`` (from 0) of a phase of ``n`` steps is at ``(k + 1) / n``, so that the
                last step is at exactly 1.

        Returns:
            A state named after :attr:`kind`; the schedule puts the phase's own name there.
        """

    @property
    def edges(self) -> tuple[float, ...]:
        """Rising points of progress, 0 to 1, behind which the state jumps; the table has a row a part."""
        return ()

    @property
    def kind(self) -> str:
        """The phase's name in ``configs/phase``: ``FloatWarmup`` is ``float_warmup``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def part(self, progress: float) -> int:
        """Index of the part between :attr:`edges` with ``progress`` in it; its right edge is in it too."""
        return sum(progress > edge + TOLERANCE for edge in self.edges)

    def jumps(self, steps: int) -> list[int]:
        """Local steps, in a phase of ``steps`` steps, at which another part begins."""
        begins = {math.floor((edge + TOLERANCE) * steps) for edge in self.edges}
        return sorted(step for step in begins if 0 < step < steps)
