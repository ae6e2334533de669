"""Which module is the model's output head, and which parameters are one tensor."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def head_names(model: nn.Module) -> set[str]:
    """Full name of the output head (``{"lm_head"}``; a masked LM's decoder); empty for an encoder or a bare module."""
    if not isinstance(model, PreTrainedModel):
        return set()
    head = model.get_output_embeddings()
    return {name for name, module in model.named_modules(remove_duplicate=False) if module is head}


def tied_groups(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same tensor, in the model's order.

    Example:
        A Llama with tied embeddings gives ``[["model.embed_tokens.weight", "lm_head.weight"]]``.
    """
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]
