"""Check a finished run's exports: re-read the files, load them in real engines, compare with what was trained."""

from __future__ import annotations

from dataclasses import replace

from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import exports, finish, finished, inputs
from qat.jobs.stages.console import say
from qat.jobs.stages.evaluation import Evaluation
from qat.report import metrics as report
from qat.report.summary import print_summary

ACCEPTS = ("run",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command.

    Without ``export=`` every export that lies in the folder is checked. What it finds replaces the exports in the
    run's ``metrics.json``, which compares numbers of the same text: measured on other text, it is printed and not
    stored.
    """
    if run.run is None:
        raise InputError("qat validate works on a finished run; name it with run=<run folder>")
    checkpoint = finished.checkpoint(folder)
    if not folder.was_typed("export"):
        run = replace(run, export=exports.in_folder(run, folder))
    if not run.export:
        raise InputError("no export is picked; name one with export=<format>")
    loaded = inputs.load(run)
    finished.check_model(loaded.loaded, checkpoint, folder)
    validation = exports.validate(run, folder, checkpoint, Evaluation(run, loaded))
    if other := finished.measured_otherwise(folder):
        metrics = finish.new_metrics(run, loaded)
        metrics.exports = validation.results
        print_summary(metrics)
        say(f"not stored in {folder.path / finish.METRICS}, since it was measured with {other}")
    else:
        path = folder.path / finish.METRICS
        metrics = report.read(path) if path.is_file() else finish.new_metrics(run, loaded)
        metrics.exports |= validation.results
        for name in validation.unread:  # what is stored of it was true of other files
            metrics.exports.pop(name, None)
        finish.publish(metrics, folder)
    exports.refuse_mismatch(validation, folder)
