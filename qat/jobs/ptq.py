"""Quantize without training (post-training quantization), export, check the files, score against float."""

from __future__ import annotations

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.jobs.stages import exports, finish, inputs, quantization
from qat.jobs.stages.evaluation import Evaluation

ACCEPTS = ()


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command; the run folder is finished or absent, since there is no training to resume."""
    scheme = quantization.scheme_of(run)
    algorithm = instantiate(run.ptq, "ptq")
    picked = exports.exporters(run)
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    checkpoint = quantization.post_training(run, loaded, loaded.loaded.model, algorithm, scheme)
    for exporter in picked.values():
        exporter.takes(checkpoint)

    with folder.whole():
        checkpoint.save(folder.quantized, loaded.loaded.tokenizer)
        checkpoint = QuantizedCheckpoint.load(folder.quantized)
        exports.write(run, folder, checkpoint)
        metrics = finish.new_metrics(run, loaded)
        metrics.base = evaluation.float("float", loaded.loaded.model)
        name = str(run.choices.ptq)
        metrics.ptq[name] = evaluation.quantized(f"ptq.{name}", checkpoint, of="base")
        validation = exports.validate(run, folder, checkpoint, evaluation)
        metrics.exports = validation.results
        metrics.samples = evaluation.sample_table()
        finish.publish(metrics, folder)
    exports.keep(run, folder)
    exports.refuse_mismatch(validation, folder)
