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
from qat.ptq.base import PTQ
from qat.ptq.calibrate import calibrate
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


def prepare_copy(run: RunConfig, inputs: Inputs, scheme: Scheme) -> Prepared:
    """Prepare a copy of the base for training; static activations get their first range from data."""
    begin("preparing the model")
    model = _copy(inputs, inputs.loaded.model)
    observer = instantiate(run.observer, "observer")
    report = prepare(model, scheme, instantiate(run.fake_quantizer, "fake_quantizer"), observer)
    if scheme.has_static_activations:
        calibrate(model, inputs.calibration(run.calibration_batches), observer)
    return Prepared(model, report)


def post_training(
    run: RunConfig, inputs: Inputs, model: nn.Module, algorithm: PTQ, scheme: Scheme
) -> QuantizedCheckpoint:
    """Quantize a copy of ``model`` without training, through the same prepare and freeze as QAT."""
    begin(f"quantizing with {type(algorithm).__name__}")
    model = _copy(inputs, model)
    observer = instantiate(run.observer, "observer")
    prepare(model, scheme, observer=MinMax())  # the algorithm sets the ranges: a search here would be thrown away
    algorithm.run(model, inputs.calibration(run.calibration_batches))
    if scheme.has_static_activations:
        calibrate(model, inputs.calibration(run.calibration_batches), observer)
    return freeze(run, inputs, model, scheme)


def freeze(run: RunConfig, inputs: Inputs, model: nn.Module, scheme: Scheme) -> QuantizedCheckpoint:
    """Freeze a prepared model; every checkpoint of a run, QAT's and PTQ's, has its rest in one dtype."""
    return QuantizedCheckpoint.freeze(model, scheme, inputs.loaded.task, rest_dtype(run, inputs))


def rest_dtype(run: RunConfig, inputs: Inputs) -> torch.dtype:
    """What the unquantized rest is rounded to; ``auto`` is what the files of the base hold."""
    return torch_dtype(inputs.loaded.file_dtype if run.rest_dtype == "auto" else run.rest_dtype)


def _copy(inputs: Inputs, model: nn.Module) -> nn.Module:
    """A copy on the device of the run, where a search for ranges is fast."""
    return deepcopy(model).to(inputs.device)
