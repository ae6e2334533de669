"""The stages after freezing: write every export, re-read it, load it in a real engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.engines.base import Engine
from qat.errors import InputError, RunError
from qat.evaluate.parity import Parity, max_logit_difference, parity
from qat.export.base import Exporter, folder_bytes
from qat.jobs.stages.evaluation import Evaluation
from qat.jobs.stages.training import extra_loggers
from qat.report.metrics import ExportResult
from qat.restore import restore
from qat.training.loggers import log_artifact

LOGIT_LIMIT = 1e-4
"""Largest difference between the logits of an export and the fake-quantized model, for weights only in float32."""


@dataclass
class Validation:
    """What re-reading the exports of a run showed.

    Attributes:
        results: format -> what ``metrics.json`` says of it.
        problems: format -> why it is not what was trained; empty where all are.
    """

    results: dict[str, ExportResult] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def exporters(run: RunConfig) -> dict[str, Exporter]:
    """The exporters of the run, by the name of their config."""
    return {name: instantiate(node, f"export.{name}") for name, node in run.export.items()}


def write(run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint) -> None:
    """Write every export that an earlier part of the run has not written.

    Raises:
        InputError: if a format cannot hold the checkpoint.
        DiskFull: if the disk is full.
    """
    for name, exporter in exporters(run).items():
        target = folder.exports / name
        if not (folder.exists and target.is_dir()):
            exporter.write(checkpoint, target, tokenizer_dir=folder.quantized)


def validate(run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint, evaluation: Evaluation) -> Validation:
    """Re-read every export and load it in the engine.

    Raises:
        InputError: if there is no such export.
    """
    validation = Validation()
    for name, exporter in exporters(run).items():
        directory = folder.exports / name
        if not directory.is_dir():
            raise InputError(f"{directory} does not exist; write it with: qat export run={folder.path} export={name}")
        found = parity(checkpoint, exporter.read(directory), exporter.holds_activations)
        result = ExportResult(
            bytes=folder_bytes(directory),
            tensors=found.tensors,
            mismatched_codes=found.mismatched_codes,
            mismatched_zero_points=found.mismatched_zero_points,
            mismatched_scales=found.mismatched_scales,
        )
        engine = None if run.engine is None else _measure(run, directory, checkpoint, evaluation, result)
        validation.results[name] = result
        problem = _mismatch(found) or _wrong_logits(checkpoint, engine, result)
        if problem is not None:
            validation.problems[name] = problem
    return validation


def _measure(
    run: RunConfig, directory: Path, checkpoint: QuantizedCheckpoint, evaluation: Evaluation, result: ExportResult
) -> Engine:
    """Load an export in the engine and write into ``result`` what it computes there, all on the run's device."""
    device, blocks = evaluation.inputs.device, evaluation.blocks
    engine: Engine = instantiate(run.engine, "engine")
    engine.load(directory, device)
    measured = evaluation.score(engine.logits, _encoder_reference(evaluation))
    tokens = torch.stack([blocks[index]["input_ids"] for index in range(min(4, len(blocks)))])
    result.engine = engine.description
    result.max_logit_difference = max_logit_difference(restore(checkpoint).to(device), engine.logits, tokens)
    result.loss, result.perplexity = measured.loss, measured.perplexity
    return engine


def keep(run: RunConfig, folder: RunFolder) -> None:
    """Hand the exports to a logger that keeps files (Weights & Biases does)."""
    loggers = extra_loggers(run, folder)
    name = (run.recipe or str(run.choices.model)).replace("/", "-")
    for export in run.export:
        log_artifact(loggers, folder.exports / export, f"{name}-{export}", "export")


def refuse_mismatch(validation: Validation, folder: RunFolder) -> None:
    """Fail a run of which an export is not what was trained.

    Raises:
        RunError: naming every such export and how it differs.
    """
    problems = validation.problems.items()
    if problems:
        raise RunError(". ".join(f"export {name} {why}; do not use {folder.exports / name}" for name, why in problems))


def _mismatch(found: Parity) -> str | None:
    """How the numbers in the files differ from the checkpoint's."""
    if found.exact:
        return None
    text = (
        f"is not the quantized checkpoint: {found.mismatched_codes} codes, {found.mismatched_zero_points} zero points "
        f"and {found.mismatched_scales} scales differ"
    )
    for what, names in (("it lacks", found.missing), ("it has one too many:", found.unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            text += f"; {what} {', '.join(names[:3])}{more}"
    return text


def _wrong_logits(checkpoint: QuantizedCheckpoint, engine: Engine | None, result: ExportResult) -> str | None:
    """Why the engine's logits are not the checkpoint's, where nothing but the order of sums can part them.

    An activation next to a rounding border may fall to either code, and an engine below float32 rounds by
    itself: there the difference is reported only.
    """
    weight_only = all(entry.scheme.input_activations is None for entry in checkpoint.weights.values())
    difference = result.max_logit_difference
    if engine is None or engine.dtype != "float32" or not weight_only or difference is None:
        return None
    if difference <= LOGIT_LIMIT:
        return None
    return (
        f"has other logits than the quantized checkpoint in {engine.description}: they differ by {difference:.2g}, "
        f"and at most {LOGIT_LIMIT:g} is allowed with weights only"
    )


def _encoder_reference(evaluation: Evaluation) -> torch.nn.Module | None:
    loaded = evaluation.inputs.loaded
    return loaded.model if loaded.task == "encoder" else None
