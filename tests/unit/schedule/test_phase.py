"""The base of the phases: lengths, names, and where a phase with edges jumps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from qat.errors import InputError
from qat.schedule import Phase, PrecisionState


@dataclass(frozen=True, kw_only=True)
class TwoParts(Phase):
    """A phase as a user would add it, with a jump."""

    at: float = 0.5

    @property
    def edges(self) -> tuple[float, ...]:
        return (self.at,)

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, activations=self.part(progress) == 1)


def test_kind_is_the_class_name_in_snake_case() -> None:
    assert TwoParts().kind == "two_parts"


@pytest.mark.parametrize(
    ("steps", "share", "message"),
    [
        (10, 0.5, "two_parts: steps=10 and share=0.5; keep one of them"),
        (-1, None, "two_parts: steps=-1 must be 0 or more"),
        (None, 1.5, "two_parts: share=1.5 must be a share from 0 to 1"),
        (None, -0.5, "two_parts: share=-0.5 must be a share"),
    ],
)
def test_lengths_that_cannot_be_are_refused(steps: int | None, share: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwoParts(steps=steps, share=share)


def test_a_part_includes_its_right_edge() -> None:
    phase = TwoParts(at=0.5)
    assert [phase.part(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0, 0, 1, 1]


# A phase of 4 steps is at 1/4, 2/4, 3/4, 1: the first one behind 0.5 is local step 2. One of 3 steps is at
# 1/3, 2/3, 1, so that it is step 1. A phase of 1 step is at 1 only: it never sees its first part.
@pytest.mark.parametrize(("steps", "jumps"), [(4, [2]), (3, [1]), (2, [1]), (1, [])])
def test_jumps(steps: int, jumps: list[int]) -> None:
    assert TwoParts(at=0.5).jumps(steps) == jumps


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 30, 100, 1000])
@pytest.mark.parametrize("at", [0.1, 0.29, 1 / 3, 0.5, 0.7, 0.1 + 0.2, 0.999])
def test_jumps_are_where_the_part_changes(at: float, steps: int) -> None:
    phase = TwoParts(at=at)
    parts = [phase.part((k + 1) / steps) for k in range(steps)]
    assert phase.jumps(steps) == [k for k in range(1, steps) if parts[k] != parts[k - 1]]
