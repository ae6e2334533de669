"""The stages that train: the float reference, and the prepared model. A resume does neither of them again."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.data.tokens import TokenBlocks
from qat.engines.workers.worker_protocol import peak_memory
from qat.errors import InputError, Interrupted
from qat.jobs.stages.console import say
from qat.jobs.stages.inputs import Inputs
from qat.models import hf
from qat.models.loaded import LoadedModel
from qat.models.save import save_float
from qat.report.metrics import Train
from qat.schedule.schedule import PrecisionSchedule
from qat.training import teacher_cache
from qat.training.callbacks.checkpoints import LAST
from qat.training.checks import check_dtype
from qat.training.datamodule import QATDataModule
from qat.training.loggers import CsvLogger
from qat.training.losses import CrossEntropy, Loss
from qat.training.module import QATModule
from qat.training.teacher_cache import Taught
from qat.training.trainer import fit


def loss_of(run: RunConfig) -> Loss:
    """The loss of the run.

    Raises:
        InputError: if it learns from a tuned float that the run does not train.
    """
    loss: Loss = instantiate(run.loss, "loss")
    if loss.teacher == "tuned_float" and not run.baseline.tuned_float:
        raise InputError(
            "loss.teacher=tuned_float needs the tuned float; set baseline.tuned_float=true or loss.teacher=base"
        )
    return loss


def check(run: RunConfig, inputs: Inputs, loss: Loss) -> None:
    """Refuse, before the run folder is made, what a training could not use.

    Raises:
        InputError: if the text, the weights' dtype, the loss, the optimizer or the logger does not do.
    """
    instantiate(run.optimizer, "optimizer")
    with TemporaryDirectory() as folder:  # a logger may write where it is made
        _logger(run, Path(folder))
    inputs.tokens("train")
    if inputs.trainer.val_every:
        inputs.tokens("validation")
    loss.check(inputs.loaded.task)
    if loss.top_k is not None:
        teacher_cache.check_k(inputs.loaded.model, loss.top_k)
    check_dtype(inputs.loaded.model)
    inputs.masking()


def tune_float(run: RunConfig, inputs: Inputs, folder: RunFolder) -> LoadedModel | None:
    """The base trained on in float for the run's steps, data and rates; None if the run does not ask for it.

    It is kept in ``tuned_float/model`` and always read back from there: a resumed run has the same one.
    """
    if not run.baseline.tuned_float:
        return None
    directory = folder.path / "tuned_float"
    final = directory / "model"
    base = inputs.loaded
    if not final.is_dir():
        tuned = replace(base, model=deepcopy(base.model))
        fit_model(run, inputs, tuned.model, CrossEntropy(), folder, directory)
        save_float(tuned, final)
    dtype = str(base.model.dtype).removeprefix("torch.")
    attention = base.model.config._attn_implementation
    loaded = hf.load(str(final), dtype, attention, task=base.task)  # type: ignore[arg-type]
    return replace(base, model=loaded.model)


def fit_model(
    run: RunConfig,
    inputs: Inputs,
    model: nn.Module,
    loss: Loss,
    folder: RunFolder,
    directory: Path,
    schedule: PrecisionSchedule | None = None,
    teacher: nn.Module | None = None,
    loggers: Sequence[Any] = (),
) -> None:
    """Train ``model`` in place and write what it cost to ``training.json``.

    Args:
        run: the checked config.
        inputs: text and trainer.
        model: float (without ``schedule``) or prepared.
        loss: what is minimized.
        folder: the run folder; an existing one resumes from its last checkpoint.
        directory: where checkpoints and ``metrics.csv`` go, inside the run folder.
        schedule: precision a step.
        teacher: float model for a loss that distills, and for phases that train one block after another.
        loggers: where metrics go besides ``metrics.csv``.

    Raises:
        Interrupted: after Ctrl-C; its message says how to resume.
    """
    trainer, task = inputs.trainer, inputs.loaded.task
    module = QATModule(
        model,
        loss,
        instantiate(run.optimizer, "optimizer"),
        task,
        run.seed,
        schedule,
        teacher,
        inputs.masking(),
    )
    blocks = _blocks(inputs, loss, teacher)
    data = QATDataModule(
        blocks,
        inputs.tokens("validation") if trainer.val_every else None,
        trainer.batch_size,
        run.seed,
        trainer.val_blocks,
        trainer.workers,
    )
    try:
        result = fit(module, data, trainer, [CsvLogger(directory), *loggers], directory, resume=folder.exists)
    except Interrupted as error:
        raise Interrupted(f"{error}; {folder.how_to_resume}") from error
    if result.weights_of != result.steps:
        say(f"weights of step {result.weights_of}, which has the lowest validation loss (trainer.use_best)")
    if result.averaged > 1:
        say(f"mean weights and ranges of the last {result.averaged} steps (trainer.average)")
    cost = Train(
        steps=result.steps,
        tokens=result.tokens,
        tokens_per_second=result.tokens_per_second,
        peak_memory_bytes=peak_memory_bytes(),
        seconds=result.seconds,
        teacher_cache_bytes=blocks.nbytes if isinstance(blocks, Taught) else None,
    )
    cost_file(directory).write_text(cost.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _blocks(inputs: Inputs, loss: Loss, teacher: nn.Module | None) -> TokenBlocks | Taught:
    """The blocks to train on, with what the teacher says of them if the loss reads that from disk."""
    blocks = inputs.tokens("train")
    if loss.top_k is None:
        return blocks
    assert teacher is not None, "the loss names its teacher"
    return teacher_cache.teach(teacher, blocks, loss.top_k, inputs.trainer.batch_size, inputs.device, say)


def peak_memory_bytes() -> int:
    """Most memory this process has held: of the GPU if one was used, else resident in main memory."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return on_gpu or peak_memory()


def extra_loggers(run: RunConfig, folder: RunFolder) -> list[Any]:
    """The logger that the run picks, unless it is ``metrics.csv``, which every training writes."""
    picked = _logger(run, folder.path)
    return [] if picked is None or isinstance(picked, CsvLogger) else [picked]


def _logger(run: RunConfig, directory: Path) -> Any:
    return None if run.logger is None else instantiate(run.logger, "logger", run_dir=directory)


def has_checkpoint(directory: Path) -> bool:
    """Whether the training in ``directory`` has a checkpoint that a resume goes on from."""
    return (directory / "checkpoints" / LAST).exists()


def cost_file(directory: Path) -> Path:
    """What a finished training cost."""
    return directory / "training.json"


def cost_of(directory: Path) -> Train | None:
    """The cost of the training in ``directory``; None where nothing was trained."""
    path = cost_file(directory)
    return Train.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
