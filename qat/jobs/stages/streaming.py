"""The stages of ``qat ptq stream=true``: quantize, export and check a model that does not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from qat.checkpoint import QuantizedCheckpoint
from qat.config import record
from qat.config.run_folder import RunFolder, difference
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.export.base import Exporter, folder_bytes
from qat.grid import Grid
from qat.jobs.stages import exports
from qat.jobs.stages.console import begin, say
from qat.models.build import torch_dtype
from qat.models.files import check_weights, read_config, stored_dtype
from qat.models.hf import own_or_given_tokenizer
from qat.models.hub import model_folder
from qat.ptq.base import PTQ
from qat.ptq.stream import stream
from qat.quantized import Deferred, QuantizedWeight
from qat.report.tables import human_bytes
from qat.scheme import Scheme

# Options of `model` that only mean something in memory, with the value at which they mean nothing.
_IN_MEMORY = {"shrink": False, "dtype": "float32", "trust_remote_code": False}
_LOAD = "qat.models.hf.load"


@dataclass(frozen=True)
class Streamed:
    """What there is before anything is read but headers.

    Attributes:
        checkpoint: the whole result, computed as it is read.
        tokenizer: the model's own, or the one that was given.
        name: of the model.
    """

    checkpoint: QuantizedCheckpoint
    tokenizer: Any
    name: str


def check_exports(picked: Mapping[str, Exporter]) -> None:
    """Refuse a format that is written from the whole model.

    Raises:
        InputError: there is one.
    """
    for name, exporter in picked.items():
        if not exporter.streams:
            raise InputError(
                f"export {name} needs the whole model in memory; leave it out with stream=true, or run without stream"
            )


def plan(run: RunConfig, folder: RunFolder, algorithm: PTQ, scheme: Scheme) -> Streamed:
    """Check everything that can be checked without the weights.

    Raises:
        InputError: a model, scheme, algorithm, export or resumed run that does not go with ``stream=true``.
    """
    if folder.exists:
        _refuse_change(folder)
    if run.model["_target_"] != _LOAD:
        raise InputError(
            "stream=true reads the files of a Hugging Face folder; pick one with model=hf model.path=<folder>"
        )
    for option, neutral in _IN_MEMORY.items():
        if run.model.get(option, neutral) != neutral:
            raise InputError(
                f"model.{option}={run.model[option]} is for a model in memory; leave it out with stream=true"
            )
    path = model_folder(run.model["path"])
    config = read_config(path)
    tokenizer = own_or_given_tokenizer(path, run.model.get("tokenizer"), config)
    rest_dtype = stored_dtype(check_weights(path)) if run.rest_dtype == "auto" else run.rest_dtype
    checkpoint = stream(path, scheme, algorithm, torch_dtype(rest_dtype), run.model.get("task"))
    return Streamed(checkpoint, tokenizer, path.resolve().name)


def save(streamed: Streamed, folder: RunFolder) -> QuantizedCheckpoint:
    """Write ``quantized/``, unless an earlier attempt finished it, and take it up again."""
    if not folder.quantized.is_dir():
        begin("quantizing")
        with _watched(streamed.checkpoint, "quantize") as checkpoint:
            checkpoint.save(folder.quantized, streamed.tokenizer)
        say(f"quantized: {folder.quantized} ({human_bytes(folder_bytes(folder.quantized))})")
    return QuantizedCheckpoint.load(folder.quantized)


def write_exports(run: RunConfig, folder: RunFolder, checkpoint: QuantizedCheckpoint) -> exports.Validation:
    """Write every export that is not there yet, read each again and compare all its numbers."""
    validation = exports.Validation()
    for name, node in run.export.items():
        alone = replace(run, export={name: node})
        with _watched(checkpoint, f"export {name}") as seen:
            exports.write(alone, folder, seen)
        with _watched(checkpoint, f"check {name}") as seen:
            found = exports.validate(alone, folder, seen, None)
        validation.results |= found.results
        validation.problems |= found.problems
    return validation


def _refuse_change(folder: RunFolder) -> None:
    saved = record.read_config(folder.path)
    if not saved.get("stream"):
        raise InputError(f"{folder.path} is no run of qat ptq stream=true, the only one of qat ptq that can be resumed")
    for key in ("ptq", "stream"):
        if found := difference(saved.get(key), folder.config.get(key), key):
            raise InputError(f"{found[0]}={found[2]} but {folder.path} was started with {found[1]}; start a new run")


@contextmanager
def _watched(checkpoint: QuantizedCheckpoint, what: str) -> Iterator[QuantizedCheckpoint]:
    """``checkpoint``, with a bar on standard error that moves as its weights are read; bytes are those of the codes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        total = sum(entry.layout.codes.nbytes for entry in checkpoint.weights.values())
        task = bar.add_task(what, total=total)
        weights = {name: _counted(entry, partial(bar.advance, task)) for name, entry in checkpoint.weights.items()}
        yield replace(checkpoint, weights=weights)
        bar.update(task, completed=total)


def _counted(entry: QuantizedWeight, advance: Callable[[float], None]) -> QuantizedWeight:
    def make() -> Grid:
        grid = entry.grid
        advance(grid.codes.nbytes)
        return grid

    return replace(entry, numbers=Deferred(entry.layout, make))
