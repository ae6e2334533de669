from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from qat.errors import InputError, RunError
from qat.mixed_precision.allocation import Budget, allocate
from qat.mixed_precision.probe import Probe
from qat.mixed_precision.sensitivity import FILE, PARTS, Sensitivity, measure
from qat.mixed_precision.units import units
from qat.scheme import Scheme

WIDTHS = [2, 8]
FRAGILE = "model.layers.1.mlp.down_proj"


def test_the_fragile_layer_loses_most_and_gets_more_bits(
    fragile: nn.Module, probe_of: Callable[..., Probe], scheme: Scheme, made: Callable[..., Sensitivity], tmp_path: Path
) -> None:
    probe = probe_of(fragile, scheme)
    decisions = units(probe.model, "layer", {})
    found = measure(probe, decisions, WIDTHS, 0.0, tmp_path, lambda: None)
    assert max(found, key=lambda unit: unit.damage[2]).name == FRAGILE
    whole = made([[0.0, 0.0]], [1], (2, 8)).model_copy(update={"units": found})
    one_more = allocate(whole, Budget(bits=2 + 6 * (64 * 128) / whole.weights))
    assert [name for name, width in one_more.widths.items() if width == 8] == [FRAGILE]


class Interrupt(Exception):
    pass


def test_an_interrupted_measurement_goes_on_where_it_was(
    probe_of: Callable[..., Probe], fragile: nn.Module, scheme: Scheme, tmp_path: Path
) -> None:
    probe = probe_of(fragile, scheme)
    decisions = units(probe.model, "layer", {})[:4]
    (tmp_path / "whole").mkdir()
    whole = measure(probe, decisions, WIDTHS, 0.0, tmp_path / "whole", lambda: None)
    steps = iter(range(5))

    def until_the_third_layer() -> None:
        if next(steps) == 4:
            raise Interrupt

    with pytest.raises(Interrupt):
        measure(probe, decisions, WIDTHS, 0.0, tmp_path, until_the_third_layer)
    assert len((tmp_path / PARTS).read_text().splitlines()) == 2
    with (tmp_path / PARTS).open("a") as file:
        file.write('{"name": "model.lay')  # a line that was being written
    measured: list[str] = []
    damage = probe.damage
    probe.damage = lambda bits: (measured.extend(bits), damage(bits))[1]  # type: ignore[method-assign, assignment]
    advanced: list[None] = []
    assert measure(probe, decisions, WIDTHS, 0.0, tmp_path, lambda: advanced.append(None)) == whole
    assert {*measured} == {unit.name for unit in decisions[2:]}
    assert len(advanced) == 4 * 2
    assert (tmp_path / PARTS).read_bytes() == (tmp_path / "whole" / PARTS).read_bytes()


def test_a_damage_that_is_no_number_names_its_layer(
    probe_of: Callable[..., Probe], fragile: nn.Module, scheme: Scheme, tmp_path: Path
) -> None:
    probe = probe_of(fragile, scheme)
    decisions = units(probe.model, "layer", {})[:1]
    probe.damage = lambda bits: float("nan")  # type: ignore[method-assign]
    with pytest.raises(RunError, match=f"{decisions[0].name} at 2 bits gives outputs that are not finite"):
        measure(probe, decisions, WIDTHS, 0.0, tmp_path, lambda: None)
    assert (tmp_path / PARTS).read_text() == ""


def test_a_file_is_read_as_it_was_written(made: Callable[..., Sensitivity], tmp_path: Path) -> None:
    found = made([[0.4, 0.1], [0.3, 0.2]], [100, 300])
    found.write(tmp_path)
    assert Sensitivity.read(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_folder_without_the_file_says_how_to_make_or_finish_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no sensitivity.json; make one with: qat sensitivity"):
        Sensitivity.read(tmp_path)
    (tmp_path / PARTS).touch()
    with pytest.raises(InputError, match=f"finish it with: qat sensitivity resume={tmp_path}"):
        Sensitivity.read(tmp_path)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        Sensitivity.read(tmp_path)


def test_the_ground_is_subtracted(
    probe_of: Callable[..., Probe], fragile: nn.Module, scheme: Scheme, tmp_path: Path
) -> None:
    probe = probe_of(fragile, scheme)
    decisions = units(probe.model, "layer", {})[:1]
    (found,) = measure(probe, decisions, [2], 0.25, tmp_path, lambda: None)
    assert found.damage[2] == probe.damage({decisions[0].name: 2}) - 0.25
    assert torch.isfinite(torch.tensor(found.damage[2]))
