"""Measure how much damage every layer takes at every width: what qat allocate chooses widths by.

One layer at a time is put on the scheme's grid at each of ``widths``, with the ranges that ``ptq`` sets, while all
others stay float.
"""

from __future__ import annotations

from typing import cast, get_args

from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError, nearest
from qat.jobs.stages import inputs, probing, quantization
from qat.jobs.stages.console import say, show
from qat.mixed_precision.probe import check_widths
from qat.mixed_precision.sensitivity import FILE, PARTS, Sensitivity, measure
from qat.mixed_precision.table import sensitivity_table
from qat.mixed_precision.units import Granularity, units

ACCEPTS = ("resume", "widths", "granularity")
WIDTHS = [2, 3, 4, 8]


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command: a table on the screen and ``sensitivity.json`` in the run folder."""
    widths = check_widths(WIDTHS if run.widths is None else run.widths)
    granularity = _granularity(run.granularity)
    scheme = quantization.scheme_of(run)
    algorithm = probing.data_free(run)
    if folder.exists:
        _refuse_change(folder)
    loaded = inputs.load(run)
    probed = probing.build(run, loaded, scheme, algorithm)
    decisions = units(probed.probe.model, granularity, probing.batch(loaded))
    folder.create()
    with probing.watched("measuring", len(decisions) * len(widths) + 1) as progress:
        ground = probed.probe.damage({})
        progress.advance(progress.task_ids[0])
        measured = measure(
            probed.probe, decisions, widths, ground, folder.path, lambda: progress.advance(progress.task_ids[0])
        )
    found = Sensitivity(
        model=loaded.loaded.name,
        scheme=scheme.to_dict(),
        ptq=str(run.choices.ptq),
        measure=probed.measure,
        tokens=probed.tokens,
        granularity=granularity,
        widths=widths,
        ground=ground,
        rest_bytes=probed.rest_bytes,
        units=measured,
    )
    found.write(folder.path)
    show(sensitivity_table(found))
    say(f"numbers: {folder.path / FILE}")
    say(f"next: qat allocate run={folder.path} budget=<bits a weight>")


def _granularity(name: str | None) -> Granularity:
    allowed = get_args(Granularity)
    if name is not None and name not in allowed:
        raise InputError(f"granularity={name} is not one of {', '.join(allowed)}{nearest(name, allowed)}")
    return cast(Granularity, name or "layer")


def _refuse_change(folder: RunFolder) -> None:
    """What :func:`qat.config.run_folder.choose` does not look at, and units that are there were measured with."""
    if not (folder.path / PARTS).is_file():
        raise InputError(f"{folder.path} is no run of qat sensitivity, so it cannot be resumed; start a new run")
    folder.refuse_change(["widths", "granularity"])
