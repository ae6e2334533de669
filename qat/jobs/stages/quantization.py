"""The stages between a float model and its quantized checkpoint: prepare, calibrate, PTQ, freeze."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages.console import begin
from qat.jobs.stages.inputs import Inputs
from qat.models.build import torch_dtype
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.prepare_report import PrepareReport
from qat.ptq.base import PTQ, DataFreePTQ
from qat.ptq.blockwise import BlockwisePTQ
from qat.ptq.calibrate import calibrate
from qat.ptq.rtn import RTN
from qat.ptq.store import BlockStore
from qat.schedule.phases.fake_quant import FakeQuant
from qat.schedule.schedule import PrecisionSchedule
from qat.scheme import Scheme


@dataclass(frozen=True)
class Prepared:
    """A copy of the base with fake quantizers in it, and what prepare said."""

    model: nn.Module
    report: PrepareReport


def scheme_of(run: RunConfig) -> Scheme:
    """The scheme of a command that quantizes.

    Raises:
        InputError: if the run has none.
    """
    if run.scheme is None:
        raise InputError("this run has no scheme, so nothing would be quantized; pick one with scheme=<name>")
    scheme: Scheme = instantiate(run.scheme, "scheme")
    return scheme


def schedule_of(run: RunConfig, scheme: Scheme) -> PrecisionSchedule:
    """The precision schedule; without a phase in the recipe, everything is quantized from the first step on.

    Raises:
        InputError: if its last step is not the model that the scheme describes.
    """
    phases = {name: instantiate(node, f"schedule.{name}") for name, node in run.schedule.items()}
    steps = instantiate(run.trainer, "trainer").max_steps
    schedule = PrecisionSchedule(phases or {"fake_quant": FakeQuant()}, steps)
    schedule.check([group.weights.num_bits for group in scheme.config_groups.values() if group.weights])
    return schedule


def algorithm_of(run: RunConfig) -> PTQ:
    """The algorithm that quantizes the model, instead of a training or before it.

    Raises:
        InputError: if the run has none.
    """
    if run.ptq is None:
        raise InputError("this run has no ptq, so nothing would set the ranges; pick one with ptq=<name>")
    algorithm: PTQ = instantiate(run.ptq, "ptq")
    return algorithm


def prepare_copy(run: RunConfig, inputs: Inputs, scheme: Scheme) -> Prepared:
    """Prepare a copy of the base for training: all but the start that :func:`set_start` gives it is there."""
    begin("preparing the model")
    model = _copy(inputs, inputs.loaded.model)
    # The algorithm sets the ranges: a search here would be thrown away.
    report = prepare(model, scheme, instantiate(run.fake_quantizer, "fake_quantizer"), MinMax())
    _calibrate(run, inputs, model, scheme)
    return Prepared(model, report)


def set_start(
    run: RunConfig, inputs: Inputs, model: nn.Module, algorithm: PTQ, scheme: Scheme, store: BlockStore
) -> None:
    """Give a model of :func:`prepare_copy` the weights and ranges that its training starts from, in place."""
    begin(f"starting from {type(algorithm).__name__}")
    algorithm.run(model, inputs.calibration(run.calibration_batches), store)
    if not isinstance(algorithm, DataFreePTQ):  # it may have moved the weights, and so the activations
        _calibrate(run, inputs, model, scheme)


def post_training(
    run: RunConfig,
    inputs: Inputs,
    model: nn.Module,
    algorithm: PTQ,
    scheme: Scheme,
    store: BlockStore | None = None,
) -> QuantizedCheckpoint:
    """Quantize a copy of ``model`` without training, through the same prepare and freeze as QAT.

    Args:
        run: the checked config.
        inputs: text and device.
        model: float; it stays as it is.
        algorithm: what sets ranges and weights.
        scheme: what to quantize.
        store: finished blocks of an algorithm that works block by block.
    """
    begin(f"quantizing with {type(algorithm).__name__}")
    # Block by block only a block is on the device; else all of it, where a search for ranges is fast.
    model = deepcopy(model) if isinstance(algorithm, BlockwisePTQ) else _copy(inputs, model)
    prepare(model, scheme, observer=MinMax())  # the algorithm sets the ranges: a search here would be thrown away
    algorithm.run(model, inputs.calibration(run.calibration_batches), store)
    _calibrate(run, inputs, model, scheme)
    return freeze(run, inputs, model, scheme)


def plain(run: RunConfig, inputs: Inputs, scheme: Scheme) -> QuantizedCheckpoint:
    """A checkpoint laid out as every other one of the run, at the least cost: what exports are checked with."""
    return post_training(run, inputs, inputs.loaded.model, RTN(MinMax()), scheme)


def _calibrate(run: RunConfig, inputs: Inputs, model: nn.Module, scheme: Scheme) -> None:
    """Give static activations their ranges."""
    if not scheme.has_static_activations:
        return
    if run.observer is None:
        raise InputError("static activations get their range from an observer; pick one with observer=<name>")
    observer = instantiate(run.observer, "observer")
    calibrate(model.to(inputs.device), inputs.calibration(run.calibration_batches), observer)


def freeze(run: RunConfig, inputs: Inputs, model: nn.Module, scheme: Scheme) -> QuantizedCheckpoint:
    """Freeze a prepared model; every checkpoint of a run, QAT's and PTQ's, has its rest in one dtype."""
    return QuantizedCheckpoint.freeze(model, scheme, inputs.loaded.task, rest_dtype(run, inputs))


def rest_dtype(run: RunConfig, inputs: Inputs) -> torch.dtype:
    """What the unquantized rest is rounded to; ``auto`` is what the files of the base hold."""
    return torch_dtype(inputs.loaded.file_dtype if run.rest_dtype == "auto" else run.rest_dtype)


def _copy(inputs: Inputs, model: nn.Module) -> nn.Module:
    """A copy on the device of the run."""
    return deepcopy(model).to(inputs.device)
