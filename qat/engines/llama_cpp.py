"""llama.cpp, for GGUF."""

from __future__ import annotations

from typing import Literal

import torch

from qat.engines.foreign import Foreign


class LlamaCppEngine(Foreign):
    """llama-cpp-python on the CPU.

    llama.cpp rounds the input of every Q4_0 and Q8_0 matrix to INT8 in blocks of 32, and of F16 matrices to F16.

    Args:
        threads: None: as many as torch uses here.
        context: longest sequence in tokens; the logits of that many are kept in memory.
        kv_cache: type of keys and values; llama.cpp's own default is f16, which rounds them.
        time_limit: seconds that loading, and every later question, may take.
    """

    formats = frozenset({"gguf"})
    environment = "llama_cpp"
    package = "llama_cpp"

    def __init__(
        self,
        threads: int | None = None,
        context: int = 2048,
        kv_cache: Literal["f32", "f16"] = "f32",
        time_limit: float = 3600.0,
    ) -> None:
        super().__init__(time_limit, threads=threads or torch.get_num_threads(), context=context, kv_cache=kv_cache)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids by the tokenizer inside the file; ``special`` adds its first and last token.

        Raises:
            RunError: the file has none.
        """
        ids: list[int] = self.ask("tokenize", text=text, special=special)
        return ids
