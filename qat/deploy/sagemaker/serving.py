"""``serving.properties``: what AWS's LMI container is told about the model that lies beside it.

``option.quantize`` is never written: of a model that is quantized already vLLM reads how from ``config.json``, and an
explicit value takes optimizations away (LMI's vLLM user guide).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from qat.errors import InputError

FILE = "serving.properties"
MODEL_ID = "/opt/ml/model"
"""Where SageMaker puts the files in the container."""
DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
"""torch's name -> LMI's."""

Batching = Literal["async", "rolling"]

_BATCHING: dict[str, dict[str, str]] = {
    "async": {
        "option.async_mode": "true",
        "option.rolling_batch": "disable",
        "option.entryPoint": "djl_python.lmi_vllm.vllm_async_service",
    },
    "rolling": {"option.rolling_batch": "vllm"},
}


def properties(
    dtype: str, batching: Batching, tensor_parallel: int | None, context: int | None, batch: int
) -> dict[str, str]:
    """The keys and values of the file.

    Args:
        dtype: of the activations, as torch names it.
        batching: ``async`` for LMI 15 and later, ``rolling`` for those before it.
        tensor_parallel: GPUs that share the model; None: all of the instance.
        context: longest sequence in tokens; None: the model's own.
        batch: sequences at once.
    """
    written = {
        "engine": "Python",
        "option.model_id": MODEL_ID,
        "option.dtype": DTYPES[dtype],
        **_BATCHING[batching],
        "option.tensor_parallel_degree": "max" if tensor_parallel is None else str(tensor_parallel),
        "option.max_rolling_batch_size": str(batch),
    }
    return written if context is None else {**written, "option.max_model_len": str(context)}


def write(path: Path, values: dict[str, str]) -> None:
    """Write the file, a key a line."""
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()), encoding="utf-8")


def read(path: Path) -> dict[str, str]:
    """The keys and values of a file.

    Raises:
        InputError: it is missing, or a line is no ``key=value``.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; write the folder again: qat deploy target=sagemaker run=<run folder>")
    values: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise InputError(f"{path}: '{line}' is no key=value")
        values[key.strip()] = value.strip()
    return values
