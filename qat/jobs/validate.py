"""Re-read a finished run's exports, load them in a real engine, compare: qat validate run=<run folder>."""

from __future__ import annotations

from qat.checkpoint import QuantizedCheckpoint
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import exports, finish, inputs
from qat.jobs.stages.evaluation import Evaluation
from qat.report import metrics as report

ACCEPTS = ("run",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command; what it finds replaces the exports in the run's ``metrics.json``."""
    if run.run is None:
        raise InputError("qat validate works on a finished run; name it with run=<run folder>")
    checkpoint = QuantizedCheckpoint.load(folder.quantized)
    loaded = inputs.load(run)
    path = folder.path / finish.METRICS
    metrics = report.read(path) if path.is_file() else finish.new_metrics(run, loaded)
    found = exports.validate(run, folder, checkpoint, Evaluation(run, loaded))
    metrics.exports |= found
    finish.publish(metrics, folder)
    exports.refuse_mismatch(found, folder)
