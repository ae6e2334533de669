"""Train, quantize, export, check the files, score against float and PTQ: everything a recipe says."""

from __future__ import annotations

from rich.console import Console

from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.jobs.stages import exports, finish, inputs, qat_training, quantization, training
from qat.jobs.stages.evaluation import Evaluation, float_reference, with_recovery
from qat.report.metrics import Metrics

ACCEPTS = ("resume",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    plan = qat_training.plan(run)
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    trained = qat_training.train(run, plan, loaded, folder)
    exports.write(run, folder, trained.checkpoint)

    metrics = finish.new_metrics(run, loaded)
    metrics.train = training.cost_of(folder.path)
    with Console(stderr=True).status("scoring"):
        _compare(run, trained, evaluation, metrics)
        validation = exports.validate(run, folder, trained.checkpoint, evaluation)
    metrics.exports = validation.results
    metrics.samples = evaluation.sample_table()
    finish.publish(metrics, folder)
    exports.keep(run, folder)
    exports.refuse_mismatch(validation, folder)
    finish.hold_to_promise(run, folder)


def _compare(run: RunConfig, trained: qat_training.Trained, evaluation: Evaluation, metrics: Metrics) -> None:
    """Float, tuned float, PTQ of the better of the two, and the trained model."""
    base = evaluation.inputs.loaded.model
    metrics.base = evaluation.float("float", base)
    if trained.tuned is not None:
        metrics.tuned_float = evaluation.float("tuned_float", trained.tuned.model)
    of = float_reference(metrics.base, metrics.tuned_float)
    start = trained.tuned.model if trained.tuned is not None and of == "tuned_float" else base
    scheme = trained.checkpoint.scheme
    for name, node in run.baseline.ptq.items():
        algorithm = instantiate(node, f"baseline.ptq.{name}")
        checkpoint = quantization.post_training(run, evaluation.inputs, start, algorithm, scheme)
        metrics.ptq[name] = evaluation.quantized(f"ptq.{name}", checkpoint, of)
    quality = evaluation.quantized("qat", trained.checkpoint)
    metrics.qat = with_recovery(quality, metrics.base, metrics.tuned_float, metrics.ptq)
