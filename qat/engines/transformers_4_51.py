"""transformers 4.51.3, which Bedrock's Custom Model Import loads models with."""

from __future__ import annotations

from typing import Literal

from qat.engines.foreign import Foreign
from qat.models.loaded import Dtype


class Transformers451Engine(Foreign):
    """The proof of ``dialect: transformers_4_51``; files of another dialect are refused.

    Args:
        dtype: of weights and activations. float32 is what parity is stated in.
        attention: implementation of the attention.
        time_limit: seconds that loading, and every later question, may take.
    """

    formats = frozenset({"dequantized"})
    environment = "transformers_4_51"
    package = "transformers"
    own_weights = True

    def __init__(
        self,
        dtype: Dtype = "float32",
        attention: Literal["eager", "sdpa"] = "sdpa",
        time_limit: float = 3600.0,
    ) -> None:
        super().__init__(time_limit, dtype=dtype, attention=attention)
