"""Runs a :class:`QATModule` under Lightning: options, checkpoints, resume."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.plugins.environments import LightningEnvironment

from qat.errors import InputError, RunError
from qat.training.callbacks.average import Average
from qat.training.callbacks.checkpoints import BEST, LAST, Checkpoints
from qat.training.callbacks.interrupt import Interrupt
from qat.training.callbacks.metrics import Metrics
from qat.training.callbacks.nan_guard import NanGuard
from qat.training.callbacks.progress import ProgressBar
from qat.training.callbacks.quant_error import QuantError
from qat.training.callbacks.throughput import Throughput
from qat.training.checkpoint_io import AtomicCheckpointIO
from qat.training.datamodule import QATDataModule
from qat.training.loggers import CsvLogger
from qat.training.module import QATModule

_LEAST = {
    **dict.fromkeys(("gradient_clip", "val_every", "quant_error_every", "workers"), 0),
    **dict.fromkeys(("max_steps", "batch_size", "accumulate", "val_blocks"), 1),
    **dict.fromkeys(("save_every", "log_every", "num_threads"), 1),
    "block_size": 2,
}
_ALLOWED = {"precision": ("32", "bf16-mixed", "16-mixed"), "device": ("auto", "cpu", "gpu", "mps")}


@dataclass(frozen=True)
class TrainerConfig:
    """How long and on what to train.

    Attributes:
        max_steps: optimizer steps of the run.
        batch_size: blocks of one micro-batch.
        accumulate: micro-batches of one optimizer step; each weighs the same, whatever its trained tokens.
        block_size: tokens of one block.
        precision: arithmetic of the forward pass; weights, ranges and moments stay float32.
        gradient_clip: largest norm of all gradients together; 0 does not clip.
        val_every: optimizer steps between two validations; 0 for none.
        val_blocks: validate on the first so many blocks; ``None`` for all.
        save_every: optimizer steps between two ``last.ckpt``.
        log_every: optimizer steps between two rows of training metrics.
        quant_error_every: optimizer steps between two rows of each layer's quantization error and range
            drift; 0 for none.
        device: ``auto`` takes a GPU where there is one.
        num_threads: CPU threads of torch; ``None`` leaves torch's choice. Another number may round otherwise.
        workers: processes that read blocks; 0 reads in the main one.
        use_best: end with the weights of ``best.ckpt``, the lowest validation loss at the scheme's precision,
            instead of those of the last step. The last step must be validated, so that it takes part.
        average: end with the mean of the weights and ranges of the last steps, this share of them; 0 for those
            of the last step. Not with ``use_best``.
        compile: ``torch.compile`` the model; needs a C++ compiler on CPU.

    Raises:
        InputError: if a value is outside its range, or two exclude each other.
    """

    max_steps: int
    batch_size: int = 16
    accumulate: int = 1
    block_size: int = 256
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    gradient_clip: float = 1.0
    val_every: int = 100
    val_blocks: int | None = None
    save_every: int = 100
    log_every: int = 10
    quant_error_every: int = 100
    device: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    num_threads: int | None = None
    workers: int = 0
    use_best: bool = False
    average: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"trainer.{name}={value} must be {least} or more")
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"trainer.{name}={value!r} must be one of {', '.join(allowed)}")
        if not 0 <= self.average <= 1:
            raise InputError(f"trainer.average={self.average} must be a share of the steps, from 0 to 1")
        if self.average and self.use_best:
            raise InputError(
                f"trainer.average={self.average} and trainer.use_best=true both say which weights a run ends with; "
                "set trainer.average=0 or trainer.use_best=false"
            )
        if self.use_best and (not self.val_every or self.max_steps % self.val_every):
            raise InputError(
                f"trainer.use_best=true and trainer.val_every={self.val_every}: the last step must be validated too; "
                f"set trainer.val_every to a divisor of trainer.max_steps={self.max_steps}"
            )


@dataclass(frozen=True)
class FitResult:
    """What a finished run was.

    Attributes:
        steps: optimizer steps done, those before a resume included.
        weights_of: the step whose weights the model has: the last one, or that of ``best.ckpt``.
        averaged: steps, ending with ``weights_of``, whose mean the model has; 1 for the weights of one step.
        tokens: tokens seen.
        seconds: of training, without validation.
        tokens_per_second: of training.
    """

    steps: int
    weights_of: int
    averaged: int
    tokens: int
    seconds: float
    tokens_per_second: float


def fit(
    module: QATModule,
    datamodule: QATDataModule,
    config: TrainerConfig,
    loggers: Sequence[Logger],
    run_dir: Path,
    resume: bool = False,
) -> FitResult:
    """Train ``module`` in place up to ``config.max_steps``; its model is left on the CPU, in evaluation mode.

    Args:
        module: what to train.
        datamodule: the batches.
        config: how long and on what.
        loggers: where metrics go besides ``metrics.csv``, which every run writes.
        run_dir: the run folder; checkpoints go to ``checkpoints/``.
        resume: go on from ``checkpoints/last.ckpt``. A run that was stopped before its first checkpoint
            starts anew, which is the same run, since all of it follows from the seed and the step.

    Raises:
        InputError: if the device or precision is not there, or the checkpoint is of another model.
        RunError: if a loss is not finite, the disk is full, or no validation gave the best weights asked for.
        Interrupted: after Ctrl-C or SIGTERM, with ``last.ckpt`` saved.
    """
    directory = run_dir / "checkpoints"
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    throughput, interrupt = Throughput(), Interrupt()
    metrics = Metrics(config.log_every, throughput)
    val_every = config.val_every if datamodule.validation is not None else 0
    checkpoints = Checkpoints(directory, config.save_every, val_every, interrupt)
    callbacks: list[Callback] = [NanGuard(), throughput, metrics, ProgressBar(metrics), interrupt, checkpoints]
    if config.quant_error_every and module.schedule is not None:
        callbacks.insert(2, QuantError(config.quant_error_every))
    csv_and_others = [CsvLogger(run_dir), *(one for one in loggers if not isinstance(one, CsvLogger))]
    average = Average(config.max_steps + 1 - max(1, round(config.average * config.max_steps)))
    if config.average:
        callbacks.insert(0, average)
    last = directory / LAST
    with _quiet():
        trainer = _lightning_trainer(config, val_every, run_dir, logger=csv_and_others, callbacks=callbacks)
        if config.compile:
            module.compile_forward()
        try:
            trainer.fit(module, datamodule=datamodule, ckpt_path=last if resume and last.exists() else None)
        except SystemExit as error:  # how Lightning ends at a second Ctrl-C
            raise KeyboardInterrupt from error
    weights_of = _load_best(module, directory / BEST) if config.use_best else trainer.global_step
    averaged = average.apply(module.model) if config.average else 1
    module.model.eval()
    return FitResult(
        steps=trainer.global_step,
        weights_of=weights_of,
        averaged=averaged,
        tokens=throughput.tokens,
        seconds=throughput.seconds,
        tokens_per_second=throughput.tokens_per_second,
    )


def _load_best(module: QATModule, path: Path) -> int:
    """Give ``module`` the weights and ranges at ``path`` and return their step."""
    if not path.exists():
        raise RunError("trainer.use_best=true and no validation loss was a number; look at val/loss in metrics.csv")
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    step: int = checkpoint["global_step"]
    return step


def _lightning_trainer(config: TrainerConfig, val_every: int, run_dir: Path, **parts: Any) -> pl.Trainer:
    accelerator = accelerator_of(config.device)
    # Outside its own environment Lightning would look for a cluster's and requeue there.
    plugins: list[Any] = [AtomicCheckpointIO(), LightningEnvironment()]
    precision: Any = {"32": "32-true"}.get(config.precision, config.precision)
    if config.precision == "16-mixed" and accelerator == "cpu":
        # Asked by name, Lightning trains in bfloat16 instead; torch does have float16 on CPU.
        plugins.append(MixedPrecision("16-mixed", "cpu"))
        precision = None
    return pl.Trainer(
        max_steps=config.max_steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip or None,
        precision=precision,
        accelerator=accelerator,
        devices=1,
        val_check_interval=(val_every or config.max_steps) * config.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=None if val_every else 0,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run_dir,
        plugins=plugins,
        **parts,
    )


def accelerator_of(device: str) -> str:
    """Lightning's name of the device: ``gpu``, ``mps`` or ``cpu``.

    Raises:
        InputError: if the device asked for is not there.
    """
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there[device]:
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(f"trainer.device={device} is not available here; available: auto, {found}")
    return device


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's tips and the advice it gives about choices that were made on purpose."""
    names = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
