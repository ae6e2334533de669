"""Prepare, print what will happen, train, freeze: what ``qat run`` and ``qat train`` share."""

from __future__ import annotations

import json
from dataclasses import dataclass

from qat.checkpoint import QuantizedCheckpoint
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.export.base import Exporter
from qat.hosts import block_count
from qat.jobs.stages import exports, quantization, tokenizers, training
from qat.jobs.stages.console import show
from qat.jobs.stages.inputs import Inputs
from qat.models.loaded import LoadedModel
from qat.ptq.base import PTQ
from qat.ptq.store import BlockStore
from qat.schedule.schedule import PrecisionSchedule
from qat.scheme import Scheme
from qat.training.losses import Loss


@dataclass(frozen=True)
class Plan:
    """What can be checked before the model is loaded."""

    scheme: Scheme
    schedule: PrecisionSchedule
    loss: Loss
    start: PTQ
    exporters: dict[str, Exporter]


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        checkpoint: what was trained, in integers.
        tuned: the float model trained on for the same steps, if the run asks for it.
    """

    checkpoint: QuantizedCheckpoint
    tuned: LoadedModel | None


def plan(run: RunConfig) -> Plan:
    """Read what the run is to do.

    Raises:
        InputError: if it has no scheme, its schedule does not end at the scheme, or its parts do not fit.
    """
    scheme = quantization.scheme_of(run)
    schedule = quantization.schedule_of(run, scheme)
    start = quantization.algorithm_of(run)
    return Plan(scheme, schedule, training.loss_of(run), start, exports.exporters(run))


def train(
    run: RunConfig, plan: Plan, inputs: Inputs, folder: RunFolder, tuned: LoadedModel | None = None, tables: bool = True
) -> Trained:
    """Train the base under the run's schedule; what a resumed run has finished is read back instead.

    Everything that can be refused is refused before the folder is made and the first step is taken.

    Args:
        run: the checked config.
        plan: what :func:`plan` made of it.
        inputs: model and text.
        folder: where everything goes.
        tuned: the tuned float where it is there already; else it is trained if the run asks for it.
        tables: whether to print what will happen.
    """
    scheme, schedule, loss = plan.scheme, plan.schedule, plan.loss
    prepared = quantization.prepare_copy(run, inputs, scheme)
    schedule.check_blocks(block_count(prepared.model))
    untrained = quantization.freeze(run, inputs, prepared.model, scheme)
    exports.refuse_unfit(plan.exporters, untrained)
    tokenizers.refuse_unfit(plan.exporters, untrained, inputs.loaded.tokenizer)
    del untrained
    training.check(run, inputs, loss)

    if tables:
        show(prepared.report.table(), schedule.table())
    folder.create()
    _write_json(folder, "prepare.json", prepared.report.to_dict())
    _write_json(folder, "schedule.json", schedule.to_dict())
    tuned = tuned or training.tune_float(run, inputs, folder)
    if not folder.quantized.is_dir():
        # What trains one block after another compares with the base where the loss names no teacher.
        teacher = {None: None, "base": inputs.loaded, "tuned_float": tuned}[loss.teacher]
        if teacher is None and schedule.reconstructs:
            teacher = inputs.loaded
        blocks = BlockStore(folder.path / "blocks")
        if not training.has_checkpoint(folder.path):  # it has the weights of its step, and so needs no start
            quantization.set_start(run, inputs, prepared.model, plan.start, scheme, blocks)
        training.fit_model(
            run,
            inputs,
            prepared.model,
            loss,
            folder,
            folder.path,
            schedule,
            None if teacher is None else teacher.model,
            training.extra_loggers(run, folder),
        )
        frozen = quantization.freeze(run, inputs, prepared.model, scheme)
        frozen.save(folder.quantized, inputs.loaded.tokenizer)
        blocks.clear()
    return Trained(QuantizedCheckpoint.load(folder.quantized), tuned)


def _write_json(folder: RunFolder, name: str, content: object) -> None:
    (folder.path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
