"""vLLM on the CPU.

The engine runs inside this process, without workers or a server; what torch.distributed binds is on the loopback.
"""

from __future__ import annotations

import os

os.environ.update(  # read when vLLM is imported
    VLLM_CPU_OMP_THREADS_BIND="nobind",  # the machine has other work; OMP_NUM_THREADS counts
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_HOST_IP="127.0.0.1",
    VLLM_LOOPBACK_IP="127.0.0.1",
    GLOO_SOCKET_IFNAME="lo",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ALLOW_LONG_MAX_MODEL_LEN="1",  # see load
    VLLM_LOGGING_LEVEL="WARNING",
)

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vllm  # type: ignore[import-not-found]
from numpy.typing import NDArray
from worker_protocol import NoLogits, NotAvailable, serve  # type: ignore[import-not-found]

_MAX_VOCABULARY = 1 << 14
"""vLLM gives every log-probability as a Python object: a larger vocabulary would take gigabytes a sequence."""

_NO_KERNEL = ("Failed to find a kernel", "_OpNamespace", "Marlin does not support")
"""How vLLM says that it has no code for this kind of weight on this processor."""

_NO_SUPPORT = (
    "Unsupported quantization config",
    "No compressed-tensors compatible scheme was found",  # 4-bit weights with static activations
    "Currently supported kv cache quantization is",  # FP8
    "no module or parameter named 'embed_tokens.weight_",  # quantized embeddings
)
"""How it says so of every processor."""

_llm: Any = None
_context = 0
_stop: list[int] = []


def load(directory: str, dtype: str | None, context: int, kv_cache_gib: int) -> dict[str, str]:
    """Load the export in ``directory``, and let it compute once: a kernel that is absent may show only then.

    ``dtype`` None: float16 for packed weights, whose CPU kernel takes no float32, else float32.
    """
    global _context, _llm, _stop
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    _check_head_size(config)
    dtype = dtype or ("float16" if _is_packed(config) else "float32")
    _context = min(context, config.get("max_position_embeddings") or config.get("n_positions") or context)
    _stop = _stop_tokens(Path(directory), config)
    processor = f"CPU {torch.backends.cpu.get_cpu_capability()}"
    try:
        _llm = vllm.LLM(
            directory,
            skip_tokenizer_init=True,
            dtype=dtype,
            enforce_eager=True,
            max_model_len=_context + 1,  # it scores a sequence only with one new token, which is never computed on
            max_num_seqs=4,
            max_logprobs=-1,
            enable_prefix_caching=False,
            disable_log_stats=True,
            trust_remote_code=False,
            seed=0,
        )
        _run(np.zeros((1, 2), dtype=np.int64), 1)
    except Exception as error:
        if (absent := _absent(str(error), processor)) is not None:
            raise NotAvailable(absent) from error
        raise
    return {"description": f"vllm {vllm.__version__} ({processor}, {dtype})", "dtype": dtype}


def logits(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-softmax of the logits, which is all that vLLM gives: float32 [batch, length, vocabulary]."""
    _fits(tokens.shape[1])
    vocabulary = _llm.llm_engine.model_config.get_vocab_size()
    if vocabulary > _MAX_VOCABULARY:
        raise NoLogits(f"vLLM gives no whole distributions over {vocabulary} tokens (at most {_MAX_VOCABULARY} here)")
    result = np.full((*tokens.shape, vocabulary), -np.inf, dtype=np.float32)
    for rows, sequence in zip(result, tokens, strict=True):  # one at a time: see _MAX_VOCABULARY
        (output,) = _run(sequence[None], 1, prompt_logprobs=-1, logprobs=-1)
        _fill(rows[:-1], output.prompt_logprobs, 1)
        _fill(rows[-1:], output.outputs[0].logprobs, 0)
    return result


def token_losses(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Nats of every token but the first, float32 [batch, length - 1]."""
    _fits(tokens.shape[1])
    result = np.empty((len(tokens), tokens.shape[1] - 1), dtype=np.float32)
    for row, ids, output in zip(result, tokens, _run(tokens, 1, prompt_logprobs=0), strict=True):
        for index, token in enumerate(ids[1:].tolist()):
            row[index] = -output.prompt_logprobs[index + 1][token].logprob
    return result


def continue_greedily(prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
    """The most likely next tokens, one by one; a stop token is the last."""
    _fits(len(prompt) + new_tokens)
    return list(_run(prompt[None], new_tokens)[0].outputs[0].token_ids)


def _absent(error: str, processor: str) -> str | None:
    """What vLLM lacks for the export, by its own message; None if it is the export's fault."""
    if any(words in error for words in _NO_SUPPORT):
        return f"vLLM has no support for this: {error}"
    if any(words in error for words in _NO_KERNEL):
        return f"no kernel for this processor ({processor}): {error}"
    return None


def _run(prompts: NDArray[np.int64], new_tokens: int, **options: Any) -> list[Any]:
    params = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=new_tokens,
        stop_token_ids=_stop,
        detokenize=False,
        flat_logprobs=True,
        **options,
    )
    return list(_llm.generate([{"prompt_token_ids": row.tolist()} for row in prompts], params, use_tqdm=False))


def _fits(length: int) -> None:
    if length > _context:
        raise ValueError(f"{length} tokens do not fit the context of {_context}: the model's, or the option context")


def _fill(rows: NDArray[np.float32], flat: Any, first: int) -> None:
    """Scatter vLLM's flat lists into ``rows``; ``first`` skips the first prompt token, which has no distribution."""
    for row, start, end in zip(rows, flat.start_indices[first:], flat.end_indices[first:], strict=False):
        row[np.asarray(flat.token_ids[start:end])] = flat.logprobs[start:end]


def _is_packed(config: dict[str, Any]) -> bool:
    entry = config.get("quantization_config", {})
    return entry.get("quant_method") == "gptq" or "pack-quantized" in json.dumps(entry)


def _stop_tokens(directory: Path, config: dict[str, Any]) -> list[int]:
    """Without a tokenizer vLLM knows no stop token: those that transformers stops at."""
    generation = directory / "generation_config.json"
    values = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else config
    stop = values.get("eos_token_id")
    return [] if stop is None else [stop] if isinstance(stop, int) else list(stop)


def _check_head_size(config: dict[str, Any]) -> None:
    """Say it before vLLM fails deep inside: its CPU attention is compiled for some head sizes only."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # type: ignore[import-not-found]

    heads = config.get("num_attention_heads") or config.get("n_head")
    hidden = config.get("hidden_size") or config.get("n_embd")
    size = config.get("head_dim") or (hidden // heads if heads and hidden else None)
    allowed = CPUAttentionBackend.get_supported_head_sizes()
    if size is not None and size not in allowed:
        raise NotAvailable(f"its CPU attention has no kernel for head size {size}, only {', '.join(map(str, allowed))}")


if __name__ == "__main__":
    serve({handler.__name__: handler for handler in (load, logits, token_losses, continue_greedily)})
