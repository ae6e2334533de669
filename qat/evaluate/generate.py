"""Greedy sample continuations, from a float or a fake-quantized model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qat.errors import InputError
from qat.evaluate.forward import evaluating


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    eos_token_id: int | None
    pad_token_id: int | None

    def __call__(self, text: str, *, return_tensors: str) -> Any:
        """``{"input_ids": int64[1, length], ...}``."""

    def decode(self, token_ids: Tensor, *, skip_special_tokens: bool) -> str:
        """Text of token ids."""


def generate(model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
    """Continue every prompt greedily; returns the continuations without their prompts.

    Prompts run one at a time: padding would put tokens into the batch that static and per-tensor activation
    ranges see, so a continuation would depend on its neighbours.

    Raises:
        InputError: the model cannot generate, a prompt has no token, or prompt and continuation do not fit
            the model's context.
    """
    check_prompts(model, tokenizer, prompts, max_new_tokens)
    device = next(model.parameters()).device
    pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    continuations = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device)
        length = ids.shape[-1]
        with evaluating(model):
            out = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad_token_id,
            )
        continuations.append(tokenizer.decode(out[0, length:], skip_special_tokens=True))
    return continuations


def check_prompts(model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int) -> None:
    """Raise what :func:`generate` would raise, without generating."""
    if not hasattr(model, "generate"):
        raise InputError(f"{type(model).__name__} cannot generate text: only causal language models can")
    context = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for prompt in prompts:
        length = tokenizer(prompt, return_tensors="pt")["input_ids"].shape[-1]
        if length == 0:
            raise InputError(f"the prompt {prompt!r} has no token; give at least one character")
        if context is not None and length + max_new_tokens > context:
            raise InputError(
                f"a prompt of {length} tokens and max_new_tokens={max_new_tokens} do not fit the model's "
                f"context of {context}; use a shorter prompt or fewer tokens"
            )
