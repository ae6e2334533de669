"""Choose every layer's width under a budget, exactly, from what qat sensitivity measured; write the scheme.

The folder ``allocations/<budget>`` of the run gets ``scheme.yaml`` (``scheme=<its path>`` uses it), ``index.html`` with
the frontier, ``allocation.json`` with its points, and the schemes it is compared with in ``compared/``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path

import yaml

from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import inputs, probing, quantization
from qat.jobs.stages.console import say, show
from qat.mixed_precision.allocation import (
    POINTS,
    Allocation,
    Budget,
    allocate,
    frontier,
    mixes,
    modules,
    scheme_of,
    uniform,
)
from qat.mixed_precision.page import write_page
from qat.mixed_precision.result import Result, result_table, widths_table
from qat.mixed_precision.sensitivity import Sensitivity
from qat.paths import new_folder
from qat.scheme import Scheme

ACCEPTS = ("run", "overwrite", "budget", "budget_bytes")


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    if run.run is None:
        raise InputError("qat allocate works on what qat sensitivity measured; name its folder with run=<run folder>")
    budget = _budget(run)
    found = Sensitivity.read(folder.path)
    target = folder.path / "allocations" / budget.folder
    if target.exists() and not run.overwrite:
        raise InputError(f"{target} exists already; replace it with overwrite=true")
    chosen = allocate(found, budget)
    scheme = quantization.scheme_of(run)
    loaded = inputs.load(run)
    probed = probing.build(run, loaded, scheme, probing.data_free(run))
    compared = [*uniform(found), *mixes(found, budget)]
    with probing.watched("optimizing the frontier and measuring", POINTS + 2 + len(compared)) as progress:
        bar = progress.task_ids[0]
        result = Result(
            model=found.model,
            measure=found.measure,
            budget=budget,
            chosen=_measured(found, chosen, probed, lambda: progress.advance(bar)),
            compared=[_measured(found, other, probed, lambda: progress.advance(bar)) for other in compared],
            frontier=frontier(found, lambda: progress.advance(bar)),
        )
    with new_folder(target, overwrite=run.overwrite) as temporary:
        result.write(temporary / "allocation.json")
        write_page(found, result, temporary / "index.html")
        (temporary / "compared").mkdir()
        for row in result.rows:
            path = temporary / ("scheme.yaml" if row is result.chosen else f"compared/{row.name}.yaml")
            _write(scheme_of(scheme, probed.matched, modules(found, row)), f"{found.model}, {row.name}", row, path)
    show(result_table(result), widths_table(found, result.chosen))
    say(f"page: {target / 'index.html'}, numbers: {target / 'allocation.json'}")
    recipe = f"recipe={run.recipe} " if run.recipe else ""
    say(f"next: qat run {recipe}scheme={target / 'scheme.yaml'}")


def _budget(run: RunConfig) -> Budget:
    if (run.budget is None) == (run.budget_bytes is None):
        raise InputError("give one of budget=<bits a weight> and budget_bytes=<bytes of the checkpoint>")
    for key in ("budget", "budget_bytes"):
        if not isfinite(value := getattr(run, key) or 0.0):
            raise InputError(f"{key}={value} must be a number")
    return Budget(bits=run.budget, bytes=None if run.budget_bytes is None else int(run.budget_bytes))


def _measured(
    found: Sensitivity, allocation: Allocation, probed: probing.Probing, advance: Callable[[], None]
) -> Allocation:
    damage = probed.probe.damage(modules(found, allocation))
    advance()
    return allocation.model_copy(update={"measured": damage})


def _write(scheme: Scheme, title: str, row: Allocation, path: Path) -> None:
    """A scheme file, as those of ``configs/scheme`` are: its first line says what it is."""
    plain = scheme.to_dict()
    groups = {name: group.model_dump(mode="json", exclude_none=True) for name, group in scheme.config_groups.items()}
    node = {"_target_": f"{Scheme.__module__}.{Scheme.__qualname__}", **plain, "config_groups": groups}
    text = yaml.safe_dump(node, sort_keys=False, width=200)
    path.write_text(f"# {title}: {row.bits:.3f} bits a weight on average, by qat allocate.\n{text}", encoding="utf-8")
