"""A model, its tokenizer and what the rest of the path needs to know about the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qat.errors import InputError

Task = Literal["causal_lm", "masked_lm", "encoder"]
Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flash_attention_2"]


@dataclass
class LoadedModel:
    """What every ``models.*.load`` returns. The model is in evaluation mode.

    Attributes:
        model: a transformers model whose blocks are built of ``nn.Linear``.
        tokenizer: the model's own, or the one that the user gave.
        name: short name for reports.
        path: folder or hub id that the model came from.
        task: which head the model has.
        context: the most positions the model takes.
        file_dtype: of the weights in the model's files, whatever it is in memory; without files, that of the
            parameters.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: str
    task: Task
    context: int
    file_dtype: Dtype


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass instead of keeping them.

    Raises:
        InputError: if the architecture does not support it.
    """
    if not isinstance(model, PreTrainedModel) or not model.supports_gradient_checkpointing:
        raise InputError(
            f"{type(model).__name__} does not support gradient checkpointing; set model.gradient_checkpointing=false"
        )
    model.activation_checkpointing_enable({"use_reentrant": False})
