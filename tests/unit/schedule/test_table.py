"""The schedule as text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qat.schedule import PrecisionState
from qat.schedule.table import ScheduleRow, schedule_table


def row(start: PrecisionState, end: PrecisionState | None = None) -> ScheduleRow:
    return ScheduleRow("main", "fake_quant", 10, 19, start, end or start)


def test_the_usual_row() -> None:
    usual = row(PrecisionState("main"))
    assert (usual.steps, usual.bits, usual.quantized, usual.details) == ("10-19", "scheme", "all", "")


@pytest.mark.parametrize(
    ("options", "bits", "quantized", "details"),
    [
        ({"weight_bits": 6}, ">= 6", "all", ""),
        ({"activations": False}, "scheme", "weights", ""),
        ({"weights": False}, "-", "activations", ""),
        ({"weights": False, "activations": False}, "-", "nothing", ""),
        ({"freeze_ranges": True}, "scheme", "all", "frozen ranges"),
        ({"freeze_weights": True, "observe": True}, "scheme", "all", "observing, frozen weights"),
        ({"freeze_weights": True, "freeze_ranges": True}, "scheme", "all", "frozen all"),
        ({"mix": 0.5, "blocks": 0.25, "lr_scale": 0.1}, "scheme", "all", "blocks 0.25, mix 0.5, lr 0.1"),
    ],
)
def test_columns(options: dict[str, bool | float], bits: str, quantized: str, details: str) -> None:
    shown = row(PrecisionState("main", **options))  # type: ignore[arg-type]
    assert (shown.bits, shown.quantized, shown.details) == (bits, quantized, details)


def test_what_changes_within_a_row_is_shown_from_start_to_end() -> None:
    shown = row(PrecisionState("main", mix=0.1, lr_scale=0.95), PrecisionState("main", mix=1.0, lr_scale=0.5))
    assert shown.details == "mix 0.1 -> 1, lr 0.95 -> 0.5"


def test_the_table_has_a_line_a_row() -> None:
    text = io.StringIO()
    console = Console(width=80, file=text)
    console.print(schedule_table([row(PrecisionState("main", weight_bits=8)), row(PrecisionState("main"))]))
    lines = [line.split() for line in text.getvalue().splitlines() if line.strip()]
    assert lines[1] == ["phase", "kind", "steps", "bits", "quantized", "details"]
    assert lines[3:] == [
        ["main", "fake_quant", "10-19", ">=", "8", "all"],
        ["main", "fake_quant", "10-19", "scheme", "all"],
    ]
