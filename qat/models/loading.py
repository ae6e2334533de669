"""transformers' ``from_pretrained`` made strict: every weight comes from the file, or it is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from qat.errors import InputError
from qat.models.build import AUTO_CLASSES, quiet, reason, torch_dtype
from qat.models.loaded import Attention, Dtype, Task

# Constants that old files keep beside the weights and that today's models compute.
_CONSTANT = re.compile(r"(inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids)$")


def from_pretrained(
    folder: Path, config: PreTrainedConfig, task: Task, dtype: Dtype, attention: Attention, trust: bool
) -> PreTrainedModel:
    """Load a folder, refusing a model of which any part would be random, resized or left out.

    Raises:
        InputError: naming the tensor that does not fit, is missing, or has no place in the model.
    """
    try:
        with quiet():
            model, info = AUTO_CLASSES[task].from_pretrained(
                folder,
                config=config,
                dtype=torch_dtype(dtype),
                attn_implementation=attention,
                trust_remote_code=trust,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they come back in `info`, and are refused below
                output_loading_info=True,
            )
    except (ImportError, ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise InputError(f"transformers cannot load {folder} as {task}: {reason(error)}") from error
    assert isinstance(model, PreTrainedModel)
    _check_loaded(folder, model, info, task)
    state_ties(model)
    return model


def _check_loaded(folder: Path, model: PreTrainedModel, info: dict[str, Any], task: Task) -> None:
    for name, in_file, in_model in sorted(info["mismatched_keys"]):
        raise InputError(
            f"tensor '{name}' in {folder} has shape {list(in_file)}, config.json makes it {list(in_model)}; "
            "config and weights are of different models"
        )
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{folder} has no tensor '{missing[0]}'{_more(missing)}, which a {type(model).__name__} needs; "
            f"the file is not whole or not a {task} (model.task picks another head)"
        )
    check_extra(folder, model, info["unexpected_keys"])


def check_extra(folder: Path, model: PreTrainedModel, names: Iterable[str]) -> None:
    """Refuse tensors without a place in the model that would change what it computes.

    Raises:
        InputError: naming the first of them.
    """
    if extra := sorted(name for name in names if _in_a_block(model, name)):
        raise InputError(
            f"{folder} has a tensor '{extra[0]}'{_more(extra)} for which its config.json has no place; "
            "config and weights are of different models"
        )


def state_ties(model: PreTrainedModel) -> None:
    """Let the config say what is so: transformers leaves a head that differs untied, against config.json."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _in_a_block(model: nn.Module, name: str) -> bool:
    """Whether a tensor that the model has no place for belongs to one of its lists of blocks.

    Such a tensor changes what the model computes: a bias that the config turns off, a layer beyond its count.
    Others are the heads of other tasks (BERT's pooler, ...) and are left out rightly.
    """
    if _CONSTANT.search(name):
        return False
    lists = {path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    parents = [name[: match.start()] for match in re.finditer(r"\.\d+\.", name)]
    return any(path == parent or path.endswith("." + parent) for path in lists for parent in parents)
