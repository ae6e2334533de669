"""llama.cpp through llama-cpp-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import NDArray
from worker_protocol import serve  # type: ignore[import-not-found]

_CACHES = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16}
_model: Any = None
_context = 0


def load(directory: str, threads: int, context: int, kv_cache: str) -> dict[str, str]:
    """Load the GGUF file in ``directory``, for sequences of ``context`` tokens at most."""
    global _context, _model
    files = sorted(Path(directory).glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(f"there are {len(files)} GGUF files in the folder, and one is needed")
    _model = llama_cpp.Llama(
        model_path=str(files[0]),
        n_ctx=context,
        n_threads=threads,
        n_threads_batch=threads,
        type_k=_CACHES[kv_cache],
        type_v=_CACHES[kv_cache],
        swa_full=True,
        logits_all=True,
        verbose=False,
    )
    _context = context  # llama.cpp itself rounds it up, and its logits' buffer does not
    how = f"llama-cpp-python {llama_cpp.__version__}, CPU, {kv_cache} keys and values"
    return {
        "description": f"llama.cpp ({how})",
        "dtype": "float16",
    }  # the coarsest type that activations are rounded to


def logits(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [batch, length, vocabulary] of int64 [batch, length]."""
    _fits(tokens.shape[1])
    return np.stack([_row(row.tolist()) for row in tokens])


def continue_greedily(prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
    """The most likely next tokens, one by one; a stop token is the last."""
    _fits(len(prompt) + new_tokens)
    _model.reset()
    _model.eval(prompt.tolist())
    made: list[int] = []
    for _ in range(new_tokens):
        made.append(int(np.argmax(_model.scores[_model.n_tokens - 1])))
        if llama_cpp.llama_vocab_is_eog(_vocabulary(), made[-1]) or len(made) == new_tokens:
            break
        _model.eval(made[-1:])
    return made


def tokenize(text: str, special: bool) -> list[int]:
    """Token ids by the file's own tokenizer, which knows special tokens in the text.

    ``special`` adds its first and last token.
    """
    if llama_cpp.llama_vocab_type(_vocabulary()) == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
        raise ValueError("the file has no tokenizer")  # llama.cpp itself would end the process
    return list(_model.tokenize(text.encode(), add_bos=special, special=True))


def _fits(length: int) -> None:
    if length > _context:
        raise ValueError(f"{length} tokens do not fit the context of {_context}: set the engine's option context")


def _vocabulary() -> Any:
    return llama_cpp.llama_model_get_vocab(_model.model)


def _row(row: list[int]) -> NDArray[np.float32]:
    _model.reset()
    _model.eval(row)
    return np.array(_model.scores[: len(row)], np.float32)


if __name__ == "__main__":
    serve({handler.__name__: handler for handler in (load, logits, continue_greedily, tokenize)})
