"""GPTQModel on the CPU: the library that defines the ``gptq`` format.

Its torch kernel computes in float16 or bfloat16 only; ``weight`` gives what its own unpacking makes of the words.
"""

from __future__ import annotations

from typing import Any

import gptqmodel  # type: ignore[import-not-found]
import numpy as np
import torch
from numpy.typing import NDArray
from worker_causal_lm import CausalLM  # type: ignore[import-not-found]
from worker_protocol import serve  # type: ignore[import-not-found]

_held = CausalLM()


def load(directory: str, dtype: str, backend: str) -> dict[str, str]:
    """Load the export in ``directory``."""
    loaded = gptqmodel.GPTQModel.load(
        directory,
        device="cpu",
        backend=getattr(gptqmodel.BACKEND, backend),
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
    )
    _held.model = loaded.model
    kernels = sorted({type(module).__name__ for _, module in _quantized()})
    how = f"{', '.join(kernels)}, {dtype}"
    return {"description": f"gptqmodel {gptqmodel.__version__} (CPU, {how})", "dtype": dtype}


@torch.inference_mode()
def weight(module: str) -> NDArray[np.float32]:
    """The weight of a quantized module, [out, in], as its kernel multiplies with it."""
    values: NDArray[np.float32] = _held.model.get_submodule(module).dequantize_weight().t().float().numpy()
    return values


def _quantized() -> list[tuple[str, Any]]:
    return [(name, module) for name, module in _held.model.named_modules() if hasattr(module, "qweight")]


if __name__ == "__main__":
    serve({handler.__name__: handler for handler in (load, _held.logits, _held.continue_greedily, weight)})
