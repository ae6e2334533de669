"""vLLM on the CPU."""

from __future__ import annotations

from qat.engines.foreign import Foreign
from qat.models.loaded import Dtype


class VllmEngine(Foreign):
    """vLLM's CPU backend, without a server.

    Its "logits" are log-probabilities, and for vocabularies of up to 16,384 tokens only. Its kernel for W4A16 needs
    AVX-512; one that lacks is vLLM's own error when an export is loaded.

    Args:
        dtype: of activations and unquantized weights; None: float16 for packed weights, whose kernel takes no
            float32, else float32.
        context: longest sequence in tokens, at most the model's own.
        kv_cache_gib: memory for keys and values.
        time_limit: seconds that loading, and every later question, may take.
    """

    formats = frozenset({"compressed_tensors", "dequantized", "gptq"})
    normalised = True
    own_losses = True
    environment = "vllm"
    package = "vllm"
    cpu_flags = frozenset({"avx2"})

    def __init__(
        self,
        dtype: Dtype | None = None,
        context: int = 2048,
        kv_cache_gib: int = 1,
        time_limit: float = 3600.0,
    ) -> None:
        super().__init__(time_limit, dtype=dtype, context=context, kv_cache_gib=kv_cache_gib)
