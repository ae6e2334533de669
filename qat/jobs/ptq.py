"""Quantize without training (post-training quantization), export, check the files, score against float.

With ``stream=true`` the model is never in memory as a whole, so nothing is scored.
"""

from __future__ import annotations

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import exports, finish, inputs, quantization, streaming, tokenizers
from qat.jobs.stages.evaluation import Evaluation
from qat.report.environment import environment
from qat.report.metrics import Metrics, Quality

ACCEPTS = ("resume", "stream")
UNMEASURED = "stream=true: the model was never in memory as a whole, so neither it nor an export was run or scored"


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    if run.stream:
        stream(run, folder)
    elif run.resume is not None:
        raise InputError(f"resume={run.resume}: qat ptq can only be resumed with stream=true; start a new run")
    else:
        in_memory(run, folder)


def in_memory(run: RunConfig, folder: RunFolder) -> None:
    """Quantize, export and score; the run folder is finished or absent, since there is no training to resume."""
    scheme = quantization.scheme_of(run)
    algorithm = instantiate(run.ptq, "ptq")
    picked = exports.exporters(run)
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    checkpoint = quantization.post_training(run, loaded, loaded.loaded.model, algorithm, scheme)
    exports.refuse_unfit(picked, checkpoint)
    tokenizers.refuse_unfit(picked, checkpoint, loaded.loaded.tokenizer)

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


def stream(run: RunConfig, folder: RunFolder) -> None:
    """Quantize and export tensor by tensor; what an interrupted attempt has finished is not made again."""
    scheme = quantization.scheme_of(run)
    picked = exports.exporters(run)
    streaming.check_exports(picked)
    streamed = streaming.plan(run, folder, instantiate(run.ptq, "ptq"), scheme)
    exports.refuse_unfit(picked, streamed.checkpoint)
    tokenizers.refuse_unfit(picked, streamed.checkpoint, streamed.tokenizer)
    folder.create()
    checkpoint = streaming.save(streamed, folder)
    validation = streaming.write_exports(run, folder, checkpoint)
    metrics = Metrics(
        recipe=run.recipe,
        model=streamed.name,
        scheme=str(run.choices.scheme),
        ptq={str(run.choices.ptq): Quality(bytes=checkpoint.nbytes, of="base")},
        exports=validation.results,
        environment=environment(),
        unmeasured=UNMEASURED,
    )
    finish.publish(metrics, folder)
    exports.keep(run, folder)
    exports.refuse_mismatch(validation, folder)
