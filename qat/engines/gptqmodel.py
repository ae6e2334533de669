"""GPTQModel on the CPU, for ``gptq``."""

from __future__ import annotations

from typing import Literal

from qat.engines.foreign import Foreign


class GPTQModelEngine(Foreign):
    """The library that defines the format.

    Args:
        dtype: what its kernel computes in; it takes no float32.
        backend: name of one of its kernels, or AUTO.
        time_limit: seconds that loading, and every later question, may take.
    """

    formats = frozenset({"gptq"})
    environment = "gptqmodel"
    package = "gptqmodel"
    own_weights = True

    def __init__(
        self,
        dtype: Literal["float16", "bfloat16"] = "float16",
        backend: str = "GPTQ_TORCH",
        time_limit: float = 3600.0,
    ) -> None:
        super().__init__(time_limit, dtype=dtype, backend=backend)
