"""What the sensitivity looks like on a terminal, and how a damage is written everywhere."""

from __future__ import annotations

from rich.table import Table

from qat.mixed_precision.sensitivity import Sensitivity
from qat.report.tables import plain_table

SHOWN = 40
"""Units that a table lists; of more, those that lose most."""


def sensitivity_table(found: Sensitivity) -> Table:
    """What each unit loses at each width."""
    units, title = found.units, f"{found.model}: {measured(found.measure)} with one {found.granularity} quantized"
    if len(units) > SHOWN:
        narrow = found.widths[0]
        units = sorted(units, key=lambda unit: unit.damage[narrow], reverse=True)[:SHOWN]
        title += f"; the {SHOWN} of {len(found.units)} that lose most at {narrow} bits"
    table = plain_table(title)
    table.add_column(found.granularity, overflow="fold")
    table.add_column("weights", justify="right", no_wrap=True)
    for width in found.widths:
        table.add_column(f"{width} bits", justify="right", no_wrap=True)
    for unit in units:
        table.add_row(unit.name, f"{unit.weights:,}", *(damage(unit.damage[width]) for width in found.widths))
    return table


def measured(measure: str) -> str:
    """The damage in words."""
    return "KL to the float model in nats a token" if measure == "kl" else "squared error of the hidden states"


def damage(value: float) -> str:
    """Three digits that say something."""
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.4f}"
