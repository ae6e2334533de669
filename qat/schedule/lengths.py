"""How many steps each phase gets: whole numbers that add up to the run exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qat.errors import InputError
from qat.schedule.phase import Phase
from qat.schedule.state import TOLERANCE


def phase_lengths(phases: Mapping[str, Phase], total_steps: int) -> dict[str, int]:
    """Divide ``total_steps`` among the phases.

    A phase with ``steps`` gets them, and one with neither ``steps`` nor ``share`` gets what is left. Shares
    are rounded by largest remainder (the earlier phase wins a tie), so that the sum is exact; a share above 0
    gets a step at least.

    Raises:
        InputError: if two phases have neither, or the lengths do not add up to ``total_steps``.

    Example:
        >>> phase_lengths({"warmup": FloatWarmup(share=0.25), "main": FakeQuant()}, 10)
        {'warmup': 3, 'main': 7}
    """
    open_phases = [name for name, phase in phases.items() if phase.steps is None and phase.share is None]
    if len(open_phases) > 1:
        raise InputError(
            f"phases {', '.join(open_phases)} have neither steps nor share; only one can take the rest, "
            "so give the others a length"
        )
    wanted = {
        name: phase.share * total_steps if phase.share is not None else float(phase.steps or 0)
        for name, phase in phases.items()
        if name not in open_phases
    }
    rest = total_steps - sum(wanted.values())
    slack = TOLERANCE * total_steps
    fits = rest > slack if open_phases else abs(rest) <= slack
    if not fits:
        raise InputError(_does_not_fit(phases, wanted, total_steps))
    lengths = {name: phase.steps for name, phase in phases.items() if phase.steps is not None}
    shared = {name: wanted.get(name, rest) for name in phases if name not in lengths}
    lengths |= _largest_remainder(shared, total_steps - sum(lengths.values()))
    return {name: lengths[name] for name in phases}


def _largest_remainder(ideal: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers near ``ideal`` (which adds up to ``total``) with sum ``total``, 1 or more if not 0."""
    needed = sum(length > 0 for length in ideal.values())
    if needed > total:
        raise InputError(f"phases {', '.join(ideal)} need at least one step each and {total} are left; train longer")
    lengths = {name: max(math.floor(length), int(length > 0)) for name, length in ideal.items()}
    while (missing := total - sum(lengths.values())) != 0:
        sign = 1 if missing > 0 else -1
        candidates = [name for name in lengths if ideal[name] > 0 and (sign > 0 or lengths[name] > 1)]
        name = max(candidates, key=lambda name: sign * (ideal[name] - lengths[name]))
        lengths[name] += sign
    return lengths


def _does_not_fit(phases: Mapping[str, Phase], wanted: Mapping[str, float], total_steps: int) -> str:
    """The error for lengths that do not add up, with every number in it."""
    terms = []
    for name, phase in phases.items():
        if name not in wanted:
            terms.append(f"{name} (the rest)")
        elif phase.share is not None:
            terms.append(f"{name} {wanted[name]:g} (share={phase.share:g})")
        else:
            terms.append(f"{name} {phase.steps} steps")
    return (
        f"the phases do not fit a run of {total_steps} steps: "
        f"{' + '.join(terms)} = {sum(wanted.values()):g}; "
        "make them add up, or leave one phase without steps and share to take the rest (at least one step)"
    )
