"""Quantize without training: prepare, run the PTQ algorithm, freeze, score."""

from __future__ import annotations

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.jobs.stages import exports, finish, inputs, quantization
from qat.jobs.stages.evaluation import Evaluation

ACCEPTS = ()


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    scheme = quantization.scheme_of(run)
    algorithm = instantiate(run.ptq, "ptq")
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    checkpoint = quantization.post_training(run, loaded, loaded.loaded.model, algorithm, scheme)
    for exporter in exports.exporters(run).values():
        exporter.takes(checkpoint)

    folder.create()
    checkpoint.save(folder.quantized, loaded.loaded.tokenizer)
    metrics = finish.new_metrics(run, loaded)
    metrics.base = evaluation.float("float", loaded.loaded.model)
    name = f"ptq.{run.choices.ptq}"
    metrics.ptq[str(run.choices.ptq)] = evaluation.quantized(name, QuantizedCheckpoint.load(folder.quantized))
    metrics.ptq[str(run.choices.ptq)].of = "base"
    metrics.samples = evaluation.sample_table()
    finish.publish(metrics, folder)
