"""How much damage each unit takes at each width: measured one at a time, as ``sensitivity.json`` keeps it.

The damage of a language model is ``KL(float || quantized)`` in nats a token on calibration data, as ZeroQ's sensitivity
(arXiv:2001.00281, section 3.2) is on data that it makes; that of an encoder is the mean squared error of its hidden
states. That the damages of several units add up is an assumption, which ``qat allocate`` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from qat.errors import InputError, RunError
from qat.mixed_precision.probe import Probe, at
from qat.mixed_precision.units import Granularity, Unit

FILE = "sensitivity.json"
PARTS = "sensitivity.jsonl"
"""One line a unit, written as it is measured: what an interrupted run goes on from."""


class Strict(BaseModel):
    """A part of a result; unknown keys in its file are an error."""

    model_config = ConfigDict(extra="forbid")


class UnitDamage(Strict):
    """One unit.

    Attributes:
        name: see :class:`~qat.mixed_precision.units.Unit`.
        modules: see there.
        weights: how many numbers its weights hold.
        damage: width -> what putting this unit alone on its grid adds to the ``ground``; noise can make it negative.
        bytes: width -> packed codes, scales and zero points.
    """

    name: str
    modules: list[str]
    weights: int
    damage: dict[int, float]
    bytes: dict[int, int]


class Sensitivity(Strict):
    """All units of a model.

    Attributes:
        model: its name.
        scheme: what the grids are but for their bits, as ``Scheme.to_dict`` gives it.
        ptq: the algorithm that set the ranges.
        measure: ``kl`` or ``mse``, see the module.
        tokens: that it was measured on.
        granularity: what a unit is.
        widths: in ascending order.
        ground: damage with every weight float: that of quantized activations, else 0.
        rest_bytes: what the unquantized tensors of a checkpoint need.
        units: in model order.
    """

    model: str
    scheme: dict[str, Any]
    ptq: str
    measure: str
    tokens: int
    granularity: Granularity
    widths: list[int]
    ground: float
    rest_bytes: int
    units: list[UnitDamage]

    @property
    def weights(self) -> int:
        """Numbers in the weights of all units."""
        return sum(unit.weights for unit in self.units)

    def write(self, folder: Path) -> None:
        """Write ``sensitivity.json``; it has its name when it is whole."""
        temporary = folder / f".{FILE}.tmp"
        temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> Sensitivity:
        """Read the file that a run folder of ``qat sensitivity`` has.

        Raises:
            InputError: it has none, or it is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            fix = f"finish it with: qat sensitivity resume={folder}"
            if not (folder / PARTS).is_file():
                fix = "make one with: qat sensitivity recipe=<recipe>"
            raise InputError(f"{folder} has no {FILE}; {fix}")
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}; measure again") from None


def measure(
    probe: Probe, units: Sequence[Unit], widths: Sequence[int], ground: float, folder: Path, advance: Callable[[], None]
) -> list[UnitDamage]:
    """Measure every unit at every width, but for those that ``folder`` has already.

    Args:
        ground: the damage with every weight float.
        folder: each unit is added to its ``sensitivity.jsonl`` when it is measured.
        advance: called after each measurement, also for those taken over.

    Raises:
        InputError: ``sensitivity.jsonl`` is damaged.
        RunError: a damage is not finite.
    """
    path = folder / PARTS
    done = {unit.name: unit for unit in _parts(path)}
    with path.open("a", encoding="utf-8") as file:
        for unit in units:
            if unit.name in done:
                for _ in widths:
                    advance()
                continue
            found = _measure(probe, unit, widths, ground, advance)
            file.write(found.model_dump_json() + "\n")
            file.flush()
            done[unit.name] = found
    return [done[unit.name] for unit in units]


def _measure(probe: Probe, unit: Unit, widths: Sequence[int], ground: float, advance: Callable[[], None]) -> UnitDamage:
    damage: dict[int, float] = {}
    for width in widths:
        damage[width] = probe.damage(at([unit], width)) - ground
        if not isfinite(damage[width]):  # JSON has no such number, and no allocation a use for it
            raise RunError(f"{unit.name} at {width} bits gives outputs that are not finite; check the model's weights")
        advance()
    return UnitDamage(
        name=unit.name,
        modules=list(unit.modules),
        weights=probe.weights(unit.modules),
        damage=damage,
        bytes={width: probe.nbytes(unit.modules, width) for width in widths},
    )


def _parts(path: Path) -> Iterator[UnitDamage]:
    """The whole lines of the file; a last one that an interruption cut off is removed."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
    for line in whole.splitlines():
        try:
            yield UnitDamage.model_validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}; start a new run") from None
