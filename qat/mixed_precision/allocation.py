"""Widths for every unit: the best under a budget, and what it is compared with.

Bits are those of the codes, averaged over the quantized weights, as in the name W4: scales and zero points are not
counted, since they hardly depend on the width. Bytes are those of the whole quantized checkpoint: packed codes, scales,
zero points and the unquantized rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import floor

from compressed_tensors.quantization import QuantizationScheme

from qat.errors import InputError
from qat.mixed_precision.knapsack import choose
from qat.mixed_precision.sensitivity import Sensitivity, Strict, UnitDamage
from qat.scheme import Scheme

RANDOM_MIXES = 3
POINTS = 60
"""Budgets of the frontier between the narrowest and the widest width."""


class Allocation(Strict):
    """A width for every unit.

    Attributes:
        name: what made it.
        widths: unit -> bits.
        bits: average of the codes of the quantized weights.
        bits_with_scales: the same, with the scales and zero points.
        bytes: of the whole checkpoint.
        predicted: damage, as the sum of what was measured one by one.
        measured: damage of the whole allocation; None where it was not measured.
    """

    name: str
    widths: dict[str, int]
    bits: float
    bits_with_scales: float
    bytes: int
    predicted: float
    measured: float | None = None


class Budget(Strict):
    """What an allocation may cost: an average of ``bits`` or a whole of ``bytes``, exactly one of them."""

    bits: float | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        return f"budget={self.bits:g}" if self.bits is not None else f"budget_bytes={self.bytes}"

    @property
    def folder(self) -> str:
        """Name of the folder of its allocation."""
        return f"{self.bits:g}_bits" if self.bits is not None else f"{self.bytes}_bytes"

    @property
    def cost(self) -> Callable[[UnitDamage, int], int]:
        """Cost of a unit at a width, in the budget's currency."""
        if self.bits is not None:
            return lambda unit, width: unit.weights * width
        return lambda unit, width: unit.bytes[width]

    def limit(self, found: Sensitivity) -> int:
        """What the units may cost together."""
        if self.bits is not None:
            return floor(self.bits * found.weights * (1 + 1e-12))  # 3.3 is a little less than 33/10 in binary
        assert self.bytes is not None
        return self.bytes - found.rest_bytes


def allocate(found: Sensitivity, budget: Budget, name: str = "mixed") -> Allocation:
    """The widths whose predicted damage is the least possible within ``budget``.

    Raises:
        InputError: no widths are within it; the message says what is needed.
    """
    damages = [[unit.damage[width] for width in found.widths] for unit in found.units]
    costs = [[budget.cost(unit, width) for width in found.widths] for unit in found.units]
    chosen = choose(damages, costs, budget.limit(found))
    if chosen is None:
        least = _described(found, f"uniform_{found.widths[0]}", dict.fromkeys(_names(found), found.widths[0]))
        needed = f"{least.bits:g} bits a weight" if budget.bits is not None else f"{least.bytes} bytes"
        raise InputError(
            f"{budget} cannot be met: with every layer at {found.widths[0]} bits, the narrowest width that was "
            f"measured, the model needs {needed}; raise the budget, or measure narrower widths"
        )
    return _described(
        found, name, {unit.name: found.widths[index] for unit, index in zip(found.units, chosen, strict=True)}
    )


def uniform(found: Sensitivity) -> list[Allocation]:
    """Every unit at the same width, for each measured width."""
    return [_described(found, f"uniform_{width}", dict.fromkeys(_names(found), width)) for width in found.widths]


def mixes(found: Sensitivity, budget: Budget) -> Iterator[Allocation]:
    """What one would do without measuring: as many units as ``budget`` allows one width up.

    All units start at the widest uniform width within the budget; then the first ones of the model, the last ones, or
    random ones get the next width, each as long as it still fits.
    """
    fitting = [width for width in found.widths if _cost(found, budget, width) <= budget.limit(found)]
    wider = [width for width in found.widths if width not in fitting]
    if not fitting or not wider:
        return
    low, high = fitting[-1], wider[0]
    orders = {"first": found.units, "last": found.units[::-1]}
    for seed in range(RANDOM_MIXES):
        orders[f"random{seed}"] = random.Random(seed).sample(found.units, len(found.units))
    for name, order in orders.items():
        left = budget.limit(found) - _cost(found, budget, low)
        widths = dict.fromkeys(_names(found), low)
        for unit in order:
            step = budget.cost(unit, high) - budget.cost(unit, low)
            if step <= left:
                widths[unit.name], left = high, left - step
        yield _described(found, f"{name}_{high}_else_{low}", widths)


def frontier(found: Sensitivity, advance: Callable[[], None] = lambda: None) -> list[Allocation]:
    """The best allocation of each of many budgets in bits, every one solved exactly; equal ones appear once."""
    low, high = found.widths[0], found.widths[-1]
    points: list[Allocation] = []
    for step in range(POINTS + 1):
        budget = Budget(bits=low + (high - low) * step / POINTS)
        point = allocate(found, budget, f"{budget.bits:.2f}")
        if not points or point.widths != points[-1].widths:
            points.append(point)
        advance()
    return points


def modules(found: Sensitivity, allocation: Allocation) -> dict[str, int]:
    """Bits of every module."""
    return {name: allocation.widths[unit.name] for unit in found.units for name in unit.modules}


def scheme_of(base: Scheme, matched: Mapping[str, QuantizationScheme], bits: Mapping[str, int]) -> Scheme:
    """``base`` with the modules at other widths: one group a grid, whose targets are the modules' full names.

    Args:
        matched: the group of every module that ``base`` quantizes, see :func:`qat.scheme.match`; modules that are
            quantized only because they are tied to one of these follow it here, too.
        bits: of every module.
    """
    groups: list[QuantizationScheme] = []
    for name, group in matched.items():
        assert group.weights is not None
        weights = group.weights.model_copy(update={"num_bits": bits[name]})
        wanted = group.model_copy(update={"weights": weights, "targets": []})
        same = next((one for one in groups if one.model_copy(update={"targets": []}) == wanted), None)
        if same is None:
            groups.append(wanted.model_copy(update={"targets": [name]}))
        else:
            same.targets.append(name)
    groups.sort(key=lambda group: group.weights.num_bits)
    return replace(base, config_groups=dict(zip(_group_names(groups), groups, strict=True)))


def _group_names(groups: Iterable[QuantizationScheme]) -> list[str]:
    names: list[str] = []
    for group in groups:
        name = f"w{group.weights.num_bits}"
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def _names(found: Sensitivity) -> list[str]:
    return [unit.name for unit in found.units]


def _cost(found: Sensitivity, budget: Budget, width: int) -> int:
    return sum(budget.cost(unit, width) for unit in found.units)


def _described(found: Sensitivity, name: str, widths: dict[str, int]) -> Allocation:
    units = [(unit, widths[unit.name]) for unit in found.units]
    size = sum(unit.bytes[width] for unit, width in units)
    return Allocation(
        name=name,
        widths=widths,
        bits=sum(unit.weights * width for unit, width in units) / found.weights,
        bits_with_scales=8 * size / found.weights,
        bytes=size + found.rest_bytes,
        predicted=found.ground + sum(unit.damage[width] for unit, width in units),
    )
