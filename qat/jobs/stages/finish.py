"""The last stage: ``metrics.json``, the summary table, the promised result."""

from __future__ import annotations

import json

from qat.config import record
from qat.config.run_folder import RunFolder, model_name
from qat.config.schema import RunConfig
from qat.jobs.stages import promise
from qat.jobs.stages.console import say
from qat.jobs.stages.inputs import Inputs
from qat.report import metrics as report
from qat.report.environment import environment
from qat.report.metrics import Metrics
from qat.report.summary import print_summary

METRICS = "metrics.json"


def new_metrics(run: RunConfig, inputs: Inputs | None) -> Metrics:
    """Metrics that say what was run and on what; the stages fill in the rest.

    Args:
        run: the checked config.
        inputs: model and text; None where neither was read.
    """
    return Metrics(
        recipe=run.recipe,
        model=model_name(run) if inputs is None else inputs.loaded.name,
        scheme=run.choices.scheme or "float",
        data={} if inputs is None else record.redact(inputs.source.describe()),
        environment=environment(),
    )


def publish(metrics: Metrics, folder: RunFolder) -> None:
    """Write ``metrics.json`` and print the table that ends a run."""
    report.write(metrics, folder.path / METRICS)
    print_summary(metrics, folder.path)


def hold_to_promise(run: RunConfig, folder: RunFolder) -> None:
    """Check the recipe's ``expect`` bounds against the ``metrics.json`` that was written.

    Raises:
        RunError: if a bound is missed.
    """
    if not run.expect:
        return
    changed = promise.changed(folder.overrides)
    if changed:
        say(f"expect: not checked, since the recipe was changed by {' '.join(changed)}", "dim")
        return
    promise.check(run.expect, json.loads((folder.path / METRICS).read_text(encoding="utf-8")))
    say("expect: every bound of the recipe holds", "green")
