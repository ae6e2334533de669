"""Quantize without training (post-training quantization), export, check the files, score against float.

With ``stream=true`` the model is never in memory as a whole, so nothing is scored.
"""

from __future__ import annotations

from collections.abc import Mapping

from qat.checkpoint import QuantizedCheckpoint
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.export.base import Exporter
from qat.jobs.stages import exports, finish, inputs, quantization, streaming, tokenizers
from qat.jobs.stages.evaluation import Evaluation
from qat.ptq.base import PTQ
from qat.ptq.blockwise import BlockwisePTQ
from qat.ptq.store import BlockStore
from qat.report.environment import environment
from qat.report.metrics import Metrics, Quality

ACCEPTS = ("resume", "stream")
UNMEASURED = "stream=true: the model was never in memory as a whole, so neither it nor an export was run or scored"


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    algorithm = quantization.algorithm_of(run)
    if folder.exists:
        streaming.refuse_change(run, folder, algorithm)
    if run.stream:
        stream(run, folder, algorithm)
    elif isinstance(algorithm, BlockwisePTQ):
        block_by_block(run, folder, algorithm)
    else:
        in_memory(run, folder, algorithm)


def in_memory(run: RunConfig, folder: RunFolder, algorithm: PTQ) -> None:
    """Quantize, export and score; the run folder is finished or absent, since it takes no longer than to resume it."""
    scheme = quantization.scheme_of(run)
    picked = exports.exporters(run)
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    checkpoint = quantization.post_training(run, loaded, loaded.loaded.model, algorithm, scheme)
    _refuse_unfit(picked, checkpoint, loaded)
    with folder.whole():
        checkpoint.save(folder.quantized, loaded.loaded.tokenizer)
        validation = _finish(run, folder, evaluation)
    exports.keep(run, folder)
    exports.refuse_mismatch(validation, folder)


def block_by_block(run: RunConfig, folder: RunFolder, algorithm: BlockwisePTQ) -> None:
    """Quantize, export and score; what an interrupted attempt has finished, block by block, is not made again."""
    scheme = quantization.scheme_of(run)
    picked = exports.exporters(run)
    loaded = inputs.load(run)
    evaluation = Evaluation(run, loaded)
    _refuse_unfit(picked, quantization.plain(run, loaded, scheme), loaded)
    folder.create()
    if not folder.quantized.is_dir():
        store = BlockStore(folder.path / "blocks")
        checkpoint = quantization.post_training(run, loaded, loaded.loaded.model, algorithm, scheme, store)
        checkpoint.save(folder.quantized, loaded.loaded.tokenizer)
        store.clear()
    validation = _finish(run, folder, evaluation)
    exports.keep(run, folder)
    exports.refuse_mismatch(validation, folder)


def _refuse_unfit(picked: Mapping[str, Exporter], checkpoint: QuantizedCheckpoint, loaded: inputs.Inputs) -> None:
    exports.refuse_unfit(picked, checkpoint)
    tokenizers.refuse_unfit(picked, checkpoint, loaded.loaded.tokenizer)


def _finish(run: RunConfig, folder: RunFolder, evaluation: Evaluation) -> exports.Validation:
    """Export and score what is in ``quantized/``."""
    checkpoint = QuantizedCheckpoint.load(folder.quantized)
    exports.write(run, folder, checkpoint)
    metrics = finish.new_metrics(run, evaluation.inputs)
    metrics.base = evaluation.float("float", evaluation.inputs.loaded.model)
    name = str(run.choices.ptq)
    metrics.ptq[name] = evaluation.quantized(f"ptq.{name}", checkpoint, of="base")
    validation = exports.validate(run, folder, checkpoint, evaluation)
    metrics.exports = validation.results
    metrics.samples = evaluation.sample_table()
    finish.publish(metrics, folder)
    return validation


def stream(run: RunConfig, folder: RunFolder, algorithm: PTQ) -> None:
    """Quantize and export part by part; what an interrupted attempt has finished is not made again."""
    scheme = quantization.scheme_of(run)
    picked = exports.exporters(run)
    streaming.check_exports(picked)
    streamed = streaming.plan(run, algorithm, scheme)
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
