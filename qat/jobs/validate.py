"""Check a finished run's exports: re-read the files, load them in real engines, compare with what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import check
from qat.config.compose import compose
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import exports, finish, finished, inputs
from qat.jobs.stages.console import say
from qat.jobs.stages.evaluation import Evaluation
from qat.jobs.stages.inputs import Inputs
from qat.report import metrics as report
from qat.report.merge import merged
from qat.report.metrics import Metrics
from qat.report.summary import print_summary

ACCEPTS = ("run",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command.

    Without ``export=`` every export that lies in the folder is checked, without ``engine=`` in the run's engines. With
    ``engine=[]`` the numbers in the files are compared, for which neither the float model nor data is needed.

    What it finds is printed, and goes into the run's ``metrics.json`` beside what other engines measured of the same
    files. That file compares numbers of the same text: measured on other text, nothing is stored.
    """
    if run.run is None:
        raise InputError("qat validate works on a finished run; name it with run=<run folder>")
    checkpoint = finished.checkpoint(folder)
    run = _picked(run, folder)
    loaded = _inputs(run, folder, checkpoint) if run.engine else None
    evaluation = None if loaded is None else Evaluation(run, loaded)
    validation = exports.validate(run, folder, checkpoint, evaluation)
    measured = finish.new_metrics(run, loaded)
    measured.exports = validation.results
    print_summary(measured)
    other = "" if loaded is None else finished.measured_otherwise(folder)
    if other:
        say(f"not stored in {folder.path / finish.METRICS}, since it was measured with {other}")
    else:
        _store(measured, validation, folder)
    exports.refuse_mismatch(validation, folder)


def _picked(run: RunConfig, folder: RunFolder) -> RunConfig:
    """The exports and engines that were typed, else those of the run; a run without an engine gets the default ones."""
    if not folder.was_typed("export"):
        run = replace(run, export=exports.in_folder(run, folder))
    if not run.export:
        raise InputError("no export is picked; name one with export=<format>")
    if not run.engine and not folder.was_typed("engine"):
        run = replace(run, engine=check(compose([], run.recipes)).engine)
    return run


def _inputs(run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint) -> Inputs:
    loaded = inputs.load(run)
    finished.check_model(loaded.loaded, checkpoint, folder)
    return loaded


def _store(measured: Metrics, validation: exports.Validation, folder: RunFolder) -> None:
    """Put what was measured into ``metrics.json``, and say what is in it besides."""
    path = folder.path / finish.METRICS
    metrics = report.read(path) if path.is_file() else measured.model_copy(update={"exports": {}})
    for name in validation.unread:  # what is stored of it was true of other files
        metrics.exports.pop(name, None)
    for name, result in measured.exports.items():
        metrics.exports[name] = merged(metrics.exports.get(name), result)
    asked = [engine.status for export in metrics.exports.values() for engine in export.engines.values()]
    if any(status != "not_available" for status in asked):
        metrics.unmeasured = None
    report.write(metrics, path)
    if earlier := ", ".join(_earlier(metrics, measured)):
        say(f"in {path} from earlier commands: {earlier}", "dim")
    say(f"results: {path}", "bold")


def _earlier(metrics: Metrics, measured: Metrics) -> Iterator[str]:
    """Each export with the engines whose stored result is not of this command."""
    for name, export in metrics.exports.items():
        now = measured.exports.get(name)
        engines = [key for key, result in export.engines.items() if now is None or now.engines.get(key) != result]
        if engines or now is None:
            yield f"{name} ({', '.join(engines) or 'numbers'})"
