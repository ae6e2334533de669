"""What ``qat allocate`` found, as one JSON file and as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from qat.mixed_precision.allocation import Allocation, Budget
from qat.mixed_precision.sensitivity import Sensitivity, Strict
from qat.mixed_precision.table import damage, measured
from qat.report.tables import DASH, human_bytes, plain_table


class Result(Strict):
    """One allocation and what it is compared with.

    Attributes:
        model: its name.
        measure: ``kl`` or ``mse``, see :class:`~qat.mixed_precision.sensitivity.Sensitivity`.
        budget: what was allowed.
        chosen: the best predicted allocation within it.
        compared: uniform widths and mixes made without measuring.
        frontier: the best predicted allocation of many budgets in bits.
    """

    model: str
    measure: str
    budget: Budget
    chosen: Allocation
    compared: list[Allocation]
    frontier: list[Allocation]

    @property
    def rows(self) -> list[Allocation]:
        """The chosen one, then the others."""
        return [self.chosen, *self.compared]

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def result_table(result: Result) -> Table:
    """Predicted beside measured, for every allocation."""
    table = plain_table(f"{result.model}: {measured(result.measure)}, {result.budget}")
    table.add_column("allocation", overflow="fold")
    for heading in ("bits", "with scales", "checkpoint", "predicted", "measured"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(*cells(row), style="bold" if row is result.chosen else None)
    return table


def cells(row: Allocation) -> Iterator[str]:
    """One row of a table of allocations."""
    yield row.name
    yield f"{row.bits:.3f}"
    yield f"{row.bits_with_scales:.3f}"
    yield human_bytes(row.bytes)
    yield damage(row.predicted)
    yield DASH if row.measured is None else damage(row.measured)


def widths_table(found: Sensitivity, chosen: Allocation) -> Table:
    """How many units, and which share of the weights, got each width."""
    table = plain_table(f"Widths of {chosen.name}")
    for heading in ("bits", f"{found.granularity}s", "of the weights"):
        table.add_column(heading, justify="right", no_wrap=True)
    for width in found.widths:
        units = [unit for unit in found.units if chosen.widths[unit.name] == width]
        table.add_row(f"{width}", f"{len(units)}", f"{sum(unit.weights for unit in units) / found.weights:.1%}")
    return table
