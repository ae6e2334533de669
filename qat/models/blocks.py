"""Where the transformer blocks of a model are."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from qat.errors import InputError


def transformer_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks of a decoder or an encoder by full name, in the order in which they run.

    They are the elements of the one outermost ``nn.ModuleList`` that holds linears: ``model.layers`` of a Llama,
    Mistral, Qwen or Gemma, ``transformer.h`` of a GPT-2, ``bert.encoder.layer`` of a BERT,
    ``distilbert.transformer.layer`` of a DistilBERT.

    Raises:
        InputError: a model without such a list, or with several, or one that runs a block more than once (ALBERT).

    Example:
        >>> list(transformer_blocks(llama))
        ['model.layers.0', 'model.layers.1']
    """
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside and _has_linear(module):
            lists[name] = module
    if len(lists) != 1:
        found = f"several lists of blocks ({', '.join(lists)})" if lists else "no list of transformer blocks"
        raise InputError(
            f"{type(model).__name__} has {found}, so it cannot be quantized block by block; "
            "take an algorithm that needs no blocks: ptq=rtn_mse"
        )
    name, blocks = next(iter(lists.items()))
    if isinstance(model, PreTrainedModel):
        layers = getattr(model.config.get_text_config(), "num_hidden_layers", len(blocks))
        if layers != len(blocks):
            raise InputError(
                f"{type(model).__name__} runs {layers} layers with {len(blocks)} blocks, so it cannot be quantized "
                "block by block; take an algorithm that needs no blocks: ptq=rtn_mse"
            )
    return {f"{name}.{index}": block for index, block in enumerate(blocks)}


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear) for part in module.modules())
