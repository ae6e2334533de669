"""The schedule as rows, and as the table that a run prints before it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.table import Table

from qat.schedule.state import PrecisionState


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A stretch of steps in which the state is constant or changes smoothly.

    Attributes:
        phase: the phase's name in the schedule.
        kind: the phase's name in ``configs/phase``.
        first_step: first optimizer step, counted from 0.
        last_step: last optimizer step, included.
        start: state at the first step.
        end: state at the last step.
    """

    phase: str
    kind: str
    first_step: int
    last_step: int
    start: PrecisionState
    end: PrecisionState

    @property
    def steps(self) -> str:
        """``first-last``, counted from 0 and both included."""
        return f"{self.first_step}-{self.last_step}"

    @property
    def bits(self) -> str:
        """``scheme``, or the lower bound on the scheme's weight bits, as in ``>= 6``; ``-`` in float."""
        if not self.end.weights:
            return "-"
        return "scheme" if self.end.weight_bits is None else f">= {self.end.weight_bits}"

    @property
    def quantized(self) -> str:
        """What is fake-quantized: ``weights``, ``activations``, ``all`` or ``nothing``."""
        return _which(weights=self.end.weights, activations=self.end.activations) or "nothing"

    @property
    def blocks(self) -> str:
        """Share of the transformer blocks that are quantized."""
        return _from_to(self.start.blocks, self.end.blocks)

    @property
    def mix(self) -> str:
        """Share of the quantized value in the value that is used."""
        return _from_to(self.start.mix, self.end.mix)

    @property
    def frozen(self) -> str:
        """What is not trained: ``weights``, ``ranges``, ``all`` or ``-``."""
        return _which(weights=self.end.freeze_weights, ranges=self.end.freeze_ranges) or "-"

    @property
    def lr(self) -> str:
        """Factor on the learning rates."""
        return _from_to(self.start.lr_scale, self.end.lr_scale)

    @property
    def dampening(self) -> str:
        """Factor on the weights' distance from their grid in the loss."""
        return _from_to(self.start.dampening, self.end.dampening)

    @property
    def details(self) -> str:
        """Everything else that is not as usual, such as ``mix 0.05 -> 1, lr 0.9 -> 0.1``."""
        usual = {"blocks": "1", "mix": "1", "frozen": "-", "lr": "1", "dampening": "0"}
        notes = [f"{name} {getattr(self, name)}" for name in usual if getattr(self, name) != usual[name]]
        ways = {"observing": self.end.observe, "block by block": self.end.reconstruct is not None}
        return ", ".join([way for way, is_on in ways.items() if is_on] + notes)


def schedule_table(rows: Iterable[ScheduleRow]) -> Table:
    """A rich table with a line a row."""
    table = Table(title="Precision schedule", box=box.SIMPLE_HEAD)
    for heading in ("phase", "kind", "steps", "bits", "quantized", "details"):
        table.add_column(heading, justify="right" if heading == "steps" else "left")
    for row in rows:
        table.add_row(row.phase, row.kind, row.steps, row.bits, row.quantized, row.details)
    return table


def _which(**on: bool) -> str:
    names = [name for name, is_on in on.items() if is_on]
    return "all" if len(names) == len(on) else "".join(names)


def _from_to(start: float, end: float) -> str:
    return f"{end:.3g}" if start == end else f"{start:.3g} -> {end:.3g}"
