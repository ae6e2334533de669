"""GPTQModel on the CPU: the library that defines the ``gptq`` format.

Its torch kernel computes in float16 or bfloat16 only; ``weights`` gives what its own unpacking makes of the words.
"""

from __future__ import annotations

from typing import Any

import gptqmodel  # type: ignore[import-not-found]
import numpy as np
import torch
from numpy.typing import NDArray
from worker_protocol import serve  # type: ignore[import-not-found]

_model: Any = None


def load(directory: str, dtype: str, backend: str) -> dict[str, str]:
    """Load the export in ``directory``."""
    global _model
    _model = gptqmodel.GPTQModel.load(
        directory,
        device="cpu",
        backend=getattr(gptqmodel.BACKEND, backend),
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
    )
    kernels = sorted({type(module).__name__ for _, module in _quantized()})
    how = f"{', '.join(kernels)}, {dtype}"
    return {"description": f"gptqmodel {gptqmodel.__version__} (CPU, {how})", "dtype": dtype}


@torch.inference_mode()
def logits(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [batch, length, vocabulary] of int64 [batch, length]."""
    result: NDArray[np.float32] = _model.model(input_ids=torch.from_numpy(tokens)).logits.float().numpy()
    return result


@torch.inference_mode()
def continue_greedily(prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
    """The most likely next tokens, one by one; a stop token is the last."""
    ids = torch.from_numpy(prompt[None])
    out = _model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt) :]]


@torch.inference_mode()
def weights() -> dict[str, NDArray[np.float32]]:
    """Every quantized weight by module name, float32 [out, in].

    GPTQModel multiplies integers and scales in float16; here its integers and its scales are multiplied in float32.
    """
    result = {}
    for name, module in _quantized():
        kept, module.scales = module.scales, torch.ones_like(module.scales)  # leaves the integers: code - zero point
        codes = module.dequantize_weight().float()
        module.scales = kept
        result[name] = (codes * kept.float()[module.g_idx.long()]).t().contiguous().numpy()
    return result


def _quantized() -> list[tuple[str, Any]]:
    return [(name, module) for name, module in _model.model.named_modules() if hasattr(module, "qweight")]


if __name__ == "__main__":
    serve({handler.__name__: handler for handler in (load, logits, continue_greedily, weights)})
