"""Score a float model, or a finished run's quantized model beside it: loss, perplexity, agreement, samples."""

from __future__ import annotations

from qat.checkpoint import QuantizedCheckpoint
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.jobs.stages import finish, finished, inputs, training
from qat.jobs.stages.evaluation import Evaluation
from qat.report import metrics as report
from qat.report.metrics import Metrics, QATQuality
from qat.report.summary import print_summary

ACCEPTS = ("run",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command.

    Without ``run=`` a float model gets a run folder of its own. A finished run keeps its ``metrics.json``;
    what is measured here, perhaps on other text, goes to ``evaluate.json`` beside it.
    """
    checkpoint = finished.checkpoint(folder) if run.run is not None else None
    loaded = inputs.load(run)
    if checkpoint is not None:
        finished.check_model(loaded.loaded, checkpoint, folder)
    evaluation = Evaluation(run, loaded)
    metrics = finish.new_metrics(run, loaded)
    metrics.base = evaluation.float("float", loaded.loaded.model)
    if checkpoint is not None:
        _add_quantized(run, folder, checkpoint, evaluation, metrics)
        metrics.samples = evaluation.sample_table()
        report.write(metrics, folder.path / "evaluate.json")
        print_summary(metrics, folder.path)
        return
    metrics.scheme = "float"
    metrics.samples = evaluation.sample_table()
    with folder.whole():
        finish.publish(metrics, folder)


def _add_quantized(
    run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint, evaluation: Evaluation, metrics: Metrics
) -> None:
    """Score the run's model as what it is: the result of a training, or of PTQ."""
    if training.cost_of(folder.path) is not None:
        metrics.qat = QATQuality(**evaluation.quantized("qat", checkpoint).model_dump())
        return
    name = str(run.choices.ptq)
    metrics.ptq[name] = evaluation.quantized(f"ptq.{name}", checkpoint, of="base")
