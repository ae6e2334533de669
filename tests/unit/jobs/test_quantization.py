"""One dtype for what is not quantized, whoever freezes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import random_llama

from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import quantization
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq.gptq import GPTQ
from qat.ptq.rtn import RTN
from qat.ptq.store import BlockStore
from qat.scheme import preset


def inputs(file_dtype: str) -> Any:
    loaded = SimpleNamespace(task="causal_lm", file_dtype=file_dtype, model=random_llama())
    return SimpleNamespace(loaded=loaded, device=torch.device("cpu"), calibration=lambda _: iter(()))


@pytest.mark.parametrize(
    ("option", "in_files", "expected"),
    [
        ("auto", "bfloat16", torch.bfloat16),
        ("auto", "float32", torch.float32),
        ("float16", "bfloat16", torch.float16),
        ("float32", "bfloat16", torch.float32),
    ],
)
def test_trained_and_ptq_checkpoints_have_the_same_rest(option: str, in_files: str, expected: torch.dtype) -> None:
    run = RunConfig(rest_dtype=option, observer={"_target_": "qat.observers.minmax.MinMax"})
    start, scheme = inputs(in_files), preset("w4a16_g32")
    prepared = random_llama()
    prepare(prepared, scheme)
    trained = quantization.freeze(run, start, prepared, scheme)
    ptq = quantization.post_training(run, start, start.loaded.model, RTN(MinMax()), scheme)
    assert {tensor.dtype for tensor in [*trained.rest.values(), *ptq.rest.values()]} == {expected}
    assert trained.config["dtype"] == ptq.config["dtype"] == str(expected).removeprefix("torch.")


def prepared_and_started(name: str, tokens: torch.Tensor, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """The model that a training starts from, and the checkpoint of the same algorithm without a training."""
    algorithm = {"rtn_mse": RTN(MSE()), "gptq": GPTQ(MSE())}[name]
    options = {"observer": {"_target_": "qat.observers.minmax.MinMax"}} | changes
    run = RunConfig(fake_quantizer={"_target_": "qat.fake_quant.lsq.LSQ"}, **options)
    start, scheme = inputs("float32"), preset("w4a8_channel")
    start.calibration = lambda batches: iter([{"input_ids": tokens}] * batches)
    prepared = quantization.prepare_copy(run, start, scheme)
    quantization.set_start(run, start, prepared.model, algorithm, scheme, BlockStore(folder / "blocks"))
    before = {key: tensor.clone() for key, tensor in start.loaded.model.state_dict().items()}
    checkpoint = quantization.post_training(run, start, start.loaded.model, algorithm, scheme)
    assert all(torch.equal(before[key], tensor) for key, tensor in random_llama().state_dict().items())
    return quantization.freeze(run, start, prepared.model, scheme), checkpoint


@pytest.mark.parametrize("name", ["rtn_mse", "gptq"])
def test_a_training_starts_from_what_the_algorithm_alone_gives(name: str, tokens: torch.Tensor, tmp_path: Path) -> None:
    start, alone = prepared_and_started(name, tokens, tmp_path)
    for module, entry in alone.weights.items():
        assert torch.equal(start.weights[module].grid.codes, entry.grid.codes), module
        assert torch.equal(start.weights[module].grid.scale, entry.grid.scale), module


def test_an_observer_is_needed_for_static_activations_only(tokens: torch.Tensor, tmp_path: Path) -> None:
    prepared_and_started("gptq", tokens, tmp_path, observer=None)
    start = inputs("float32")
    run = RunConfig(fake_quantizer={"_target_": "qat.fake_quant.lsq.LSQ"})
    with pytest.raises(InputError, match="static activations get their range from an observer; pick one"):
        quantization.prepare_copy(run, start, preset("w8a8_static"))


def test_a_run_without_an_algorithm_is_refused() -> None:
    with pytest.raises(InputError, match="this run has no ptq.*pick one with ptq=<name>"):
        quantization.algorithm_of(RunConfig())


def test_another_dtype_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match="rest_dtype=bfloat is not one of auto, .*; did you mean 'bfloat16'"):
        RunConfig(rest_dtype="bfloat")
