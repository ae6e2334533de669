"""The stages of ``qat ptq stream=true``: quantize, export and check a model that does not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from qat.checkpoint import QuantizedCheckpoint
from qat.config import record
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.export.base import Exporter, folder_bytes
from qat.grid import Grid
from qat.jobs.stages import exports, inputs
from qat.jobs.stages.console import begin, say
from qat.models.build import torch_dtype
from qat.models.files import check_weights, read_config, stored_dtype
from qat.models.hf import context_of, own_or_given_tokenizer
from qat.models.hub import model_folder
from qat.models.loaded import LoadedModel
from qat.ptq.base import PTQ
from qat.ptq.blockwise import BlockwisePTQ
from qat.ptq.store import BlockStore
from qat.ptq.stream import stream
from qat.ptq.stream_blocks import BlockStream
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
        prepare: makes what the checkpoint is read from, and removes it when the checkpoint is written; of an algorithm
            that works block by block.
    """

    checkpoint: QuantizedCheckpoint
    tokenizer: Any
    name: str
    prepare: Callable[[RunFolder], AbstractContextManager[None]] = lambda _: nullcontext()


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


def plan(run: RunConfig, algorithm: PTQ, scheme: Scheme) -> Streamed:
    """Check everything that can be checked without the weights.

    Raises:
        InputError: a model, scheme, algorithm, export or text that does not go with ``stream=true``.
    """
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
    dtype, task, name = torch_dtype(rest_dtype), run.model.get("task"), path.resolve().name
    if not isinstance(algorithm, BlockwisePTQ):
        return Streamed(stream(path, scheme, algorithm, dtype, task), tokenizer, name)
    blocks = BlockStream.open(path, scheme, algorithm, dtype, task, run.model.get("attention", "sdpa"))
    model, task = blocks.skeleton.model, blocks.skeleton.task
    loaded = LoadedModel(model, tokenizer, name, str(path), task, context_of(model, tokenizer), "float32")
    text = inputs.of_model(run, loaded)
    text.tokens("train")
    return Streamed(blocks.checkpoint, tokenizer, name, partial(_blocks, run, text, blocks))


@contextmanager
def _blocks(run: RunConfig, text: inputs.Inputs, blocks: BlockStream, folder: RunFolder) -> Iterator[None]:
    """The quantized blocks of a run, on disk until its checkpoint is written."""
    store = BlockStore(folder.path / "blocks")
    blocks.quantize(text.calibration(run.calibration_batches), store)
    yield
    store.clear()


def save(streamed: Streamed, folder: RunFolder) -> QuantizedCheckpoint:
    """Write ``quantized/``, unless an earlier attempt finished it, and take it up again."""
    if not folder.quantized.is_dir():
        begin("quantizing")
        with streamed.prepare(folder), _watched(streamed.checkpoint, "quantize") as checkpoint:
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


def refuse_change(run: RunConfig, folder: RunFolder, algorithm: PTQ) -> None:
    """Refuse to resume what cannot be, or what is to become another run.

    Raises:
        InputError: the reason.
    """
    if not run.stream and not isinstance(algorithm, BlockwisePTQ):
        raise InputError(
            f"resume={run.resume}: with ptq={run.choices.ptq}, qat ptq can only be resumed with stream=true; "
            "start a new run"
        )
    before = bool(record.read_config(folder.path).get("stream"))
    if before != run.stream:
        raise InputError(f"stream={run.stream} but {folder.path} was started with {before}; start a new run")


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
