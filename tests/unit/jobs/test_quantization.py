"""One dtype for what is not quantized, whoever freezes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import random_llama

from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import quantization
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.rtn import RTN
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


def test_another_dtype_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match="rest_dtype=bfloat is not one of auto, .*; did you mean 'bfloat16'"):
        RunConfig(rest_dtype="bfloat")
