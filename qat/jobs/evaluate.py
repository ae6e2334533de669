"""Score a float model, or float and quantized of a finished run: loss, perplexity, agreement, samples."""

from __future__ import annotations

from qat.checkpoint import QuantizedCheckpoint
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.jobs.stages import finish, inputs
from qat.jobs.stages.evaluation import Evaluation
from qat.report import metrics as report
from qat.report.metrics import QATQuality
from qat.report.summary import print_summary

ACCEPTS = ("run",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command.

    Without ``run=`` a float model gets a run folder of its own. A finished run keeps its ``metrics.json``;
    what is measured here, perhaps on other text, goes to ``evaluate.json`` beside it.
    """
    checkpoint = QuantizedCheckpoint.load(folder.quantized) if run.run is not None else None
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    metrics = finish.new_metrics(run, loaded)
    metrics.base = evaluation.float("float", loaded.loaded.model)
    if checkpoint is None:
        metrics.scheme = "float"
        metrics.samples = evaluation.sample_table()
        folder.create()
        finish.publish(metrics, folder)
        return
    metrics.qat = QATQuality(**evaluation.quantized("qat", checkpoint).model_dump())
    metrics.samples = evaluation.sample_table()
    report.write(metrics, folder.path / "evaluate.json")
    print_summary(metrics, folder.path)
