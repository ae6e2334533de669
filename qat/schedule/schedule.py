"""The schedule: phases in a row, and the state at every step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import asdict, replace
from itertools import accumulate, pairwise
from typing import Any

from rich.table import Table

from qat.errors import InputError
from qat.schedule.lengths import phase_lengths
from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState
from qat.schedule.table import ScheduleRow, schedule_table


class PrecisionSchedule:
    """A pure function from the optimizer step to a :class:`PrecisionState`.

    It holds no state of its own: a run that resumes at step ``s`` asks for ``state_at(s)`` and has what the
    uninterrupted run had.

    Args:
        phases: the phases by name, in the order in which they run.
        total_steps: optimizer steps of the whole run.

    Raises:
        InputError: if there is no phase or the lengths do not add up to ``total_steps``.

    Example:
        >>> phases = {"warmup": FloatWarmup(share=0.1), "main": FakeQuant()}
        >>> schedule = PrecisionSchedule(phases, total_steps=100)
        >>> schedule.state_at(9).weights, schedule.state_at(10).weights
        (False, True)
    """

    def __init__(self, phases: dict[str, Phase], total_steps: int) -> None:
        if not phases:
            raise InputError("the schedule has no phase; add one such as '/phase@schedule.main: fake_quant'")
        for name, phase in phases.items():
            if not isinstance(phase, Phase):
                raise InputError(
                    f"schedule.{name}={phase!r} is not a phase; name its kind in the defaults, "
                    f"such as '/phase@schedule.{name}: fake_quant'"
                )
        if total_steps < 1:
            raise InputError(f"total_steps={total_steps} must be 1 or more")
        lengths = phase_lengths(phases, total_steps)
        self.phases = {name: phase for name, phase in phases.items() if lengths[name] > 0}
        self.total_steps = total_steps
        self._names = list(self.phases)
        # Phase i runs from step _starts[i] up to, but not including, _starts[i + 1].
        self._starts = [0, *accumulate(lengths[name] for name in self._names)]

    def state_at(self, step: int) -> PrecisionState:
        """State during optimizer step ``step``, counted from 0; beyond the end it is the last step's.

        Local step ``k`` of a phase of ``n`` steps is at progress ``(k + 1) / n``: the last one is at 1.

        Raises:
            ValueError: if ``step`` is negative.
        """
        index = self._index_at(step)
        first, end = self._starts[index], self._starts[index + 1]
        local = min(step, end - 1) - first
        name = self._names[index]
        return replace(self.phases[name].state((local + 1) / (end - first)), phase=name)

    def course(self, step: int, num_blocks: int) -> tuple[int, int]:
        """Where in its own course of learning rates a step is: the steps of it that were, and all its steps.

        Each block that is trained alone has a course of its own, as each is an optimization of its own
        (EfficientQAT, arXiv:2407.11062, section 3.2), and all other steps of the run make up one more.

        Args:
            step: optimizer step, counted from 0; the one after the last too.
            num_blocks: number of transformer blocks of the model; of no effect where none is trained alone.
        """
        alone = self._trained_alone()
        for first, end in alone:
            if first <= step < end:
                block = ((step - first + 1) * num_blocks - 1) // (end - first)
                start, stop = (first + index * (end - first) // num_blocks for index in (block, block + 1))
                return step - start, stop - start
        before = sum(min(step, end) - first for first, end in alone if first <= step)
        return step - before, self.total_steps - sum(end - first for first, end in alone)

    @property
    def reconstructs(self) -> bool:
        """Whether blocks are trained alone, which needs a float model to compare with."""
        return bool(self._trained_alone())

    @property
    def trains_ranges_only(self) -> bool:
        """Whether there are steps that train the clip ranges and nothing else."""
        return any(state.trains_ranges_only for state in self._ends())

    def rows(self) -> list[ScheduleRow]:
        """The schedule in stretches: one for each phase, and one for each part of a phase that jumps."""
        rows = []
        for name, (first, end) in zip(self._names, pairwise(self._starts), strict=True):
            phase = self.phases[name]
            jumps = [first + step for step in phase.jumps(end - first)]
            for start, stop in pairwise([first, *jumps, end]):
                states = self.state_at(start), self.state_at(stop - 1)
                rows.append(ScheduleRow(name, phase.kind, start, stop - 1, *states))
        return rows

    def table(self) -> Table:
        """The schedule as a rich table, printed before training starts."""
        return schedule_table(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """What ``schedule.json`` holds: the phases with their options, and the rows with their states."""
        return {
            "total_steps": self.total_steps,
            "phases": {name: {"kind": phase.kind, **asdict(phase)} for name, phase in self.phases.items()},
            "rows": [asdict(row) for row in self.rows()],
        }

    def check(self, scheme_bits: int | Collection[int]) -> None:
        """Refuse, before anything slow begins, a schedule that does not suit the scheme.

        Args:
            scheme_bits: weight bits of the scheme, or of each of its groups.

        Raises:
            InputError: if the fake quantizers stay off for the whole run, or its last step is not fully quantized.
        """
        states = self._ends()
        if not any(state.quantizes for state in states):
            raise InputError(
                "the fake quantizers stay off for the whole run; add a phase that turns them on, "
                "for example '/phase@schedule.main: fake_quant'"
            )
        widths = [scheme_bits] if isinstance(scheme_bits, int) else scheme_bits
        last = states[-1]
        faults = []
        if not last.weights:
            faults.append("weights are float")
        if not last.activations:
            faults.append("activations are float")
        if last.mix < 1:
            faults.append(f"mix is {last.mix:g}, not 1")
        if last.blocks < 1:
            faults.append(f"blocks is {last.blocks:g}, not 1")
        if last.weight_bits is not None and last.weight_bits > min(widths, default=last.weight_bits):
            faults.append(f"weight_bits is {last.weight_bits}, above the scheme's {min(widths)}")
        if faults:
            raise InputError(
                f"the last phase '{last.phase}' does not end fully quantized: {', '.join(faults)}; "
                "what is trained would not be what is exported, so end with a phase such as fake_quant"
            )

    def check_blocks(self, num_blocks: int) -> None:
        """Refuse a schedule that does not suit the model, which has ``num_blocks`` transformer blocks.

        Raises:
            InputError: if a block order does not name each of the model's blocks once, or a phase that trains one
                block after another has fewer steps than blocks.
        """
        for state in self._ends():
            state.quantized_blocks(num_blocks)
        for first, end in self._trained_alone():
            if end - first < num_blocks:
                name = self.state_at(first).phase
                raise InputError(
                    f"phase '{name}' has {end - first} steps and the model {num_blocks} blocks, of which each is "
                    f"trained alone; give it at least {num_blocks} steps"
                )

    def _trained_alone(self) -> list[tuple[int, int]]:
        """First step, and the one behind the last, of each phase that trains one block after another."""
        spans = zip(self._names, pairwise(self._starts), strict=True)
        return [span for name, span in spans if self.phases[name].state(1.0).reconstruct is not None]

    def _ends(self) -> list[PrecisionState]:
        """The states at both ends of every stretch, in order."""
        return [state for row in self.rows() for state in (row.start, row.end)]

    def _index_at(self, step: int) -> int:
        if step < 0:
            raise ValueError(f"step={step} must be 0 or more")
        return min(bisect_right(self._starts, step) - 1, len(self._names) - 1)
