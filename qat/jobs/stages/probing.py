"""What ``qat sensitivity`` and ``qat allocate`` measure with: one probe on the calibration text of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from compressed_tensors.quantization import QuantizationScheme
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import Subset

from qat.checkpoint import model_ties
from qat.config.check import instantiate
from qat.config.schema import RunConfig
from qat.errors import InputError, RunError
from qat.evaluate.score import Blocks, score
from qat.hosts import hosts
from qat.jobs.stages import quantization
from qat.jobs.stages.console import begin
from qat.jobs.stages.inputs import Inputs
from qat.mixed_precision.probe import Probe, Remembered
from qat.models.outputs import head_names
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.base import DataFreePTQ
from qat.ptq.calibrate import calibrate
from qat.rest import rest_dtypes
from qat.scheme import Scheme, match


@dataclass(frozen=True)
class Probing:
    """A probe, and what it is about.

    Attributes:
        probe: measures.
        measure: ``kl``, or ``mse`` of an encoder's hidden states.
        matched: the group of every module that the scheme quantizes.
        tokens: that each measurement runs on.
        rest_bytes: of the tensors of a checkpoint that the scheme leaves.
    """

    probe: Probe
    measure: Literal["kl", "mse"]
    matched: dict[str, QuantizationScheme]
    tokens: int
    rest_bytes: int


def data_free(run: RunConfig) -> DataFreePTQ:
    """The algorithm that sets ranges while layers are measured one by one.

    Raises:
        InputError: it needs the whole model at work, for each layer and width anew.
    """
    algorithm = instantiate(run.ptq, "ptq")
    if not isinstance(algorithm, DataFreePTQ):
        raise InputError(
            f"ptq={run.choices.ptq} looks at the whole model at work, so layers cannot be measured one by one with it; "
            "take ptq=rtn_mse or ptq=rtn (the scheme that comes out can be used with any algorithm)"
        )
    return algorithm


def build(run: RunConfig, inputs: Inputs, scheme: Scheme, algorithm: DataFreePTQ) -> Probing:
    """Prepare a copy of the base, and whatever its damage is measured with.

    Raises:
        InputError: the scheme does not fit the model, or there is no text to measure on.
    """
    if run.calibration_batches < 1:
        raise InputError(f"calibration_batches={run.calibration_batches} must be 1 or more: damage is measured on them")
    begin("preparing the model")
    base: nn.Module = inputs.loaded.model
    base.to(inputs.device).eval()
    model = deepcopy(base)
    matched = match(scheme, model, head_names(model))
    prepare(model, scheme, observer=MinMax())  # the probe sets ranges at each width
    if scheme.has_static_activations:
        calibrate(model, inputs.calibration(run.calibration_batches), instantiate(run.observer, "observer"))
    rest_bytes = _rest_bytes(run, inputs, model)
    blocks = _blocks(run, inputs)
    measure: Literal["kl", "mse"] = "mse" if inputs.loaded.task == "encoder" else "kl"
    reference = Remembered(base)

    def damage(model: nn.Module) -> float:
        task, masking = inputs.loaded.task, inputs.masking()
        found = score(model, blocks, inputs.trainer.batch_size, task, reference, masking, run.seed)
        value = found.mse if measure == "mse" else found.kl
        if value is None:
            raise RunError(f"{measure} was not measured")
        return value

    tokens = len(blocks) * inputs.trainer.block_size
    return Probing(Probe(model, algorithm, damage), measure, matched, tokens, rest_bytes)


def batch(inputs: Inputs) -> dict[str, object]:
    """A few tokens of the training split, as keyword arguments of the model."""
    return {"input_ids": next(inputs.calibration(1))["input_ids"][:1, :8]}


@contextmanager
def watched(what: str, total: int) -> Iterator[Progress]:
    """A bar on standard error whose only task, 0, has ``total`` steps; nothing where that is no terminal."""
    begin(what)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=total)
        yield progress


def _blocks(run: RunConfig, inputs: Inputs) -> Blocks:
    """The blocks of :meth:`Inputs.calibration`, with the labels that say which tokens count."""
    blocks = inputs.tokens("train")
    size = min(inputs.trainer.batch_size, len(blocks))
    return Subset(blocks, range(min(run.calibration_batches, len(blocks) // size) * size))


def _rest_bytes(run: RunConfig, inputs: Inputs, model: nn.Module) -> int:
    """What a checkpoint of the prepared model needs besides its quantized weights."""
    followers = {name for group in model_ties(model) for name in group[1:]}
    dtypes = rest_dtypes(model, set(hosts(model)), followers, quantization.rest_dtype(run, inputs))
    state = model.state_dict()
    total = 0
    for name, dtype in dtypes.items():
        tensor = state[name]
        rounded = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        total += tensor.numel() * rounded.itemsize
    return total
