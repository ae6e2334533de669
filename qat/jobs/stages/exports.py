"""The stages after freezing: write every export, re-read it, load it in real engines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.compose import choices, component
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.engines.isolated import Isolated
from qat.errors import InputError, QatError, RunError, nearest
from qat.evaluate.parity import Parity, parity
from qat.export.base import Exporter, folder_bytes
from qat.jobs.stages.console import begin
from qat.jobs.stages.engines import Expected, measure
from qat.jobs.stages.evaluation import Evaluation
from qat.jobs.stages.training import extra_loggers
from qat.report.metrics import EngineResult, ExportResult
from qat.tensor_files import sha256
from qat.training.loggers import log_artifact


@dataclass
class Validation:
    """What re-reading the exports of a run showed.

    Attributes:
        results: format -> what ``metrics.json`` says of it; of those that can be read.
        problems: format -> why it is not what was trained; empty where all are.
    """

    results: dict[str, ExportResult] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def unread(self) -> list[str]:
        """Formats whose files cannot be read: they have a problem, and no result."""
        return [name for name in self.problems if name not in self.results]


def exporters(run: RunConfig) -> dict[str, Exporter]:
    """The exporters of the run, by the name of their config."""
    return {name: instantiate(node, f"export.{name}") for name, node in run.export.items()}


def in_folder(run: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """The configs of the exports that lie in the folder; of those that the run itself wrote, with its options.

    Raises:
        InputError: if there is none, or one is of no known format.
    """
    names = sorted(path.name for path in folder.exports.glob("[!.]*") if path.is_dir())
    known = choices("export")
    if not names:
        how = f"qat export run={folder.path} export=<format>"
        raise InputError(f"{folder.exports} has no export; write one with: {how}")
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"{folder.exports / unknown[0]} is of no known format{nearest(unknown[0], known)}; formats: "
            f"{', '.join(known)}; name those to check with export=[...]"
        )
    return {name: run.export.get(name) or component("export", name) for name in names}


def refuse_unfit(picked: Mapping[str, Exporter], checkpoint: QuantizedCheckpoint) -> None:
    """Ask every exporter whether it can hold the checkpoint, before anything slow begins.

    Raises:
        InputError: one cannot: its reason, and the formats that can.
    """
    for name, exporter in picked.items():
        try:
            exporter.takes(checkpoint)
        except InputError as error:
            others = [_taker(other, checkpoint) for other in choices("export") if other not in picked]
            takers = ", ".join(filter(None, others))
            fitting = f"; formats that take it: {takers}" if takers else ""
            raise InputError(f"export {name}: {error}{fitting}") from error


def _taker(name: str, checkpoint: QuantizedCheckpoint) -> str | None:
    """The name of a format that takes the checkpoint, with what it leaves out; None for one that does not."""
    exporter: Exporter
    try:
        exporter = instantiate(component("export", name), f"export.{name}")
        exporter.takes(checkpoint)
    except InputError:  # also where the format's own package is not installed
        return None
    rounds = checkpoint.scheme.rounds_activations
    return f"{name} (weights only)" if rounds and not exporter.holds_activations else name


def write(run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint) -> None:
    """Write every export that an earlier part of the run has not written.

    Raises:
        InputError: if a format cannot hold the checkpoint.
        DiskFull: if the disk is full.
    """
    for name, exporter in exporters(run).items():
        target = folder.exports / name
        if not (folder.exists and target.is_dir()):
            begin(f"writing the export {name}")
            exporter.write(checkpoint, target, tokenizer_dir=folder.quantized)


def validate(
    run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint, evaluation: Evaluation | None
) -> Validation:
    """Re-read every export, and load it in every engine of the run that knows its format.

    An export that cannot be read is a problem of its own; the others are checked all the same.

    Args:
        run: the checked config.
        folder: where the exports lie.
        checkpoint: what they were written from.
        evaluation: what the engines are measured with; without it none is asked.

    Raises:
        InputError: if there is no such export.
    """
    validation = Validation()
    expected = None if evaluation is None else Expected(checkpoint, evaluation)
    for name in run.export:
        if not (folder.exports / name).is_dir():
            fix = f"qat export run={folder.path} export={name}"
            raise InputError(f"{folder.exports / name} does not exist; write it with: {fix}")
    for name, exporter in exporters(run).items():
        directory = folder.exports / name
        begin(f"re-reading the export {name}")
        try:
            caches = exporter.read_kv_cache(directory)
            found = parity(checkpoint, exporter.read(directory), exporter.holds_activations, caches)
        except QatError as error:
            validation.problems[name] = f"cannot be read: {error}"
            continue
        engines = {} if expected is None else _in_engines(run, name, directory, expected)
        validation.results[name] = _result(directory, found, engines)
        failed = [f"fails in {key}: {result.reason}" for key, result in engines.items() if result.status == "failed"]
        if problems := [*_mismatch(found), *failed]:
            validation.problems[name] = "; it ".join(problems)
    return validation


def _in_engines(run: RunConfig, name: str, directory: Path, expected: Expected) -> dict[str, EngineResult]:
    """What every engine of the run that knows the format makes of an export."""
    results = {}
    for key, engine in isolated(run).items():
        if name in engine.formats:
            begin(f"{name} in {key}")
            results[key] = measure(engine, directory, expected)
    return results


def isolated(run: RunConfig) -> dict[str, Isolated]:
    """The engines of the run, each to be loaded in a process of its own."""
    return {name: Isolated(node) for name, node in run.engine.items()}


def files_sha256(directory: Path) -> str:
    """SHA-256 (hex) of a folder: of a line for each of its files, as ``sha256sum`` writes them, sorted by name."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    lines = [f"{sha256(path)}  {name}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _result(directory: Path, found: Parity, engines: dict[str, EngineResult]) -> ExportResult:
    first = next((result for result in engines.values() if result.description is not None), None)
    return ExportResult(
        bytes=folder_bytes(directory),
        files_sha256=files_sha256(directory),
        tensors=found.tensors,
        mismatched_codes=found.mismatched_codes,
        mismatched_zero_points=found.mismatched_zero_points,
        mismatched_scales=found.mismatched_scales,
        engines=engines,
        engine=None if first is None else first.description,
        max_logit_difference=None if first is None else first.max_logit_difference,
        loss=None if first is None else first.loss,
        perplexity=None if first is None else first.perplexity,
    )


def keep(run: RunConfig, folder: RunFolder) -> None:
    """Hand the exports to a logger that keeps files (Weights & Biases does)."""
    loggers = extra_loggers(run, folder)
    name = (run.recipe or str(run.choices.model)).replace("/", "-")
    for export in run.export:
        log_artifact(loggers, folder.exports / export, f"{name}-{export}", "export")


def refuse_mismatch(validation: Validation, folder: RunFolder) -> None:
    """Fail a run of which an export is not what was trained, or does not work in an engine that is there.

    Raises:
        RunError: naming every such export and how it differs.
    """
    problems = validation.problems.items()
    if problems:
        raise RunError(". ".join(f"export {name} {why}; do not use {folder.exports / name}" for name, why in problems))


def _mismatch(found: Parity) -> list[str]:
    """How the numbers in the files differ from the checkpoint's; empty if they do not."""
    if found.exact:
        return []
    text = (
        f"is not the quantized checkpoint: {found.mismatched_codes} codes, {found.mismatched_zero_points} zero points "
        f"and {found.mismatched_scales} scales differ"
    )
    for what, names in (("it lacks", found.missing), ("it has one too many:", found.unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            text += f"; {what} {', '.join(names[:3])}{more}"
    return [text]
