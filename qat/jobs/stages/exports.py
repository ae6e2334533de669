"""The stages after freezing: write every export, re-read it, load it in a real engine."""

from __future__ import annotations

from pathlib import Path

import torch

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.engines.base import Engine
from qat.errors import InputError, RunError
from qat.evaluate.parity import max_logit_difference, parity
from qat.export.base import Exporter, folder_bytes
from qat.jobs.stages.evaluation import Evaluation
from qat.jobs.stages.training import extra_loggers
from qat.report.metrics import ExportResult
from qat.restore import restore
from qat.training.loggers import log_artifact


def exporters(run: RunConfig) -> dict[str, Exporter]:
    """The exporters of the run, by the name of their config."""
    return {name: instantiate(node, f"export.{name}") for name, node in run.export.items()}


def write(run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint) -> None:
    """Write every export that an earlier part of the run has not written.

    Raises:
        InputError: if a format cannot hold the checkpoint.
        RunError: if the disk is full.
    """
    for name, exporter in exporters(run).items():
        target = folder.exports / name
        if not (folder.exists and target.is_dir()):
            exporter.write(checkpoint, target, tokenizer_dir=folder.quantized)


def validate(
    run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint, evaluation: Evaluation
) -> dict[str, ExportResult]:
    """Re-read every export and load it in the engine.

    Raises:
        InputError: if there is no such export.
    """
    model = restore(checkpoint)
    tokens = torch.stack([evaluation.blocks[index]["input_ids"] for index in range(min(4, len(evaluation.blocks)))])
    results = {}
    for name, exporter in exporters(run).items():
        directory = folder.exports / name
        if not directory.is_dir():
            raise InputError(f"{directory} does not exist; write it with: qat export run={folder.path} export={name}")
        found = parity(checkpoint, exporter.read(directory))
        result = ExportResult(
            bytes=folder_bytes(directory),
            tensors=found.tensors,
            mismatched_codes=found.mismatched_codes,
            mismatched_zero_points=found.mismatched_zero_points,
            mismatched_scales=found.mismatched_scales,
        )
        if run.engine is not None:
            engine = _load(run, directory)
            measured = evaluation.score(engine.logits, _encoder_reference(evaluation))
            result.engine = engine.description
            result.max_logit_difference = max_logit_difference(model, engine.logits, tokens)
            result.loss, result.perplexity = measured.loss, measured.perplexity
        results[name] = result
    return results


def keep(run: RunConfig, folder: RunFolder) -> None:
    """Hand the exports to a logger that keeps files (Weights & Biases does)."""
    loggers = extra_loggers(run, folder)
    name = (run.recipe or str(run.choices.model)).replace("/", "-")
    for export in run.export:
        log_artifact(loggers, folder.exports / export, f"{name}-{export}", "export")


def refuse_mismatch(results: dict[str, ExportResult], folder: RunFolder) -> None:
    """Fail a run of which an export is not what was trained.

    Raises:
        RunError: naming the export and how many numbers differ.
    """
    for name, result in results.items():
        different = result.mismatched_codes + result.mismatched_zero_points + result.mismatched_scales
        if different:
            raise RunError(
                f"export {name} is not the quantized checkpoint: {result.mismatched_codes} codes, "
                f"{result.mismatched_zero_points} zero points and {result.mismatched_scales} scales differ; "
                f"do not use {folder.exports / name}"
            )


def _load(run: RunConfig, directory: Path) -> Engine:
    engine: Engine = instantiate(run.engine, "engine")
    engine.load(directory)
    return engine


def _encoder_reference(evaluation: Evaluation) -> torch.nn.Module | None:
    loaded = evaluation.inputs.loaded
    return loaded.model if loaded.task == "encoder" else None
