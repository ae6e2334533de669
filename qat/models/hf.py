"""Load any Hugging Face causal LM, masked LM or encoder, or the same architecture small and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat import paths
from qat.errors import InputError, nearest
from qat.models import build, conv1d, hub
from qat.models.files import CONFIG, check_weights, read_config, stored_dtype
from qat.models.loaded import Attention, Dtype, LoadedModel, Task, enable_gradient_checkpointing
from qat.models.loading import from_pretrained
from qat.models.shrink import full_config, shrunk_config
from qat.models.tokenizer import has_tokenizer, load_tokenizer


def load(
    path: str,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    gradient_checkpointing: bool = False,
    trust_remote_code: bool = False,
    shrink: bool = False,
    architecture: dict[str, Any] | None = None,
    tokenizer: str | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load a model from a folder or the Hugging Face hub, safetensors only.

    Args:
        path: a folder with ``config.json``, or a hub id such as ``meta-llama/Llama-3.2-1B``.
        dtype: dtype of the weights in memory.
        attention: transformers' attention implementation.
        gradient_checkpointing: trade time for memory in the backward pass.
        trust_remote_code: run Python code that comes with the model.
        shrink: the same architecture with two narrow layers and random weights; never touches the network.
        architecture: the config to shrink where ``path`` is no folder, e.g. ``{"model_type": "llama", ...}``.
        tokenizer: folder or hub id of another tokenizer than the model's own.
        task: which head to load, where the config names no class or another one is wanted.
        seed: of the random weights of a shrunk model.

    Raises:
        InputError: if the model is not there, not whole, not safetensors, does not fit its config, is
            quantized already, or needs code that is not trusted. No model has a weight left at random.

    Example:
        >>> loaded = load("any", shrink=True, architecture={"model_type": "llama"})
        >>> loaded.task, loaded.context
        ('causal_lm', 512)
    """
    _check_choice("attention", attention, get_args(Attention))
    if task is not None:
        _check_choice("task", task, get_args(Task))
    if shrink:
        loaded = _load_shrunk(path, architecture, tokenizer, task, dtype, attention, seed)
    else:
        loaded = _load_whole(path, tokenizer, task, dtype, attention, trust_remote_code)
    if gradient_checkpointing:
        enable_gradient_checkpointing(loaded.model)
    return loaded


def _load_whole(
    path: str, tokenizer: str | None, task: Task | None, dtype: Dtype, attention: Attention, trust: bool
) -> LoadedModel:
    folder = hub.model_folder(path, with_code=trust)
    config = read_config(folder, trust)
    task = task or build.detect_task(config)
    file_dtype = stored_dtype(check_weights(folder))
    words = own_or_given_tokenizer(folder, tokenizer, config, trust)
    model = from_pretrained(folder, config, task, dtype, attention, trust)
    conv1d.to_linear(model)
    return LoadedModel(model, words, _name(path), path, task, context_of(model, words), file_dtype)


def own_or_given_tokenizer(
    folder: Path, tokenizer: str | None, config: PreTrainedConfig, trust: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of ``folder``, or the one of another folder or hub id ``tokenizer``.

    Raises:
        InputError: there is none, or it has tokens that the model has no embedding for.
    """
    if tokenizer is None:
        return load_tokenizer(folder, trust)
    words = load_tokenizer(hub.model_folder(tokenizer, weights=False))
    _check_fits(words, tokenizer, config)
    return words


def _load_shrunk(
    path: str,
    architecture: dict[str, Any] | None,
    tokenizer: str | None,
    task: Task | None,
    dtype: Dtype,
    attention: Attention,
    seed: int,
) -> LoadedModel:
    folder = Path(path).expanduser()
    if (folder / CONFIG).is_file():
        full = read_config(folder)
    elif architecture is not None:
        full = full_config(architecture)
    else:
        raise InputError(
            f"model.shrink needs the architecture of '{path}': a folder with {CONFIG}, or model.architecture"
        )
    task = task or build.detect_task(full)
    embedded = paths.assets_dir() / "tiny_llama"
    words = load_tokenizer(tokenizer or (folder if has_tokenizer(folder) else embedded))
    model = build.initialise(shrunk_config(full, words), task, dtype, attention, seed)
    return LoadedModel(model, words, f"{_name(path)}-shrunk", path, task, context_of(model, words), dtype)


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"model.{option} '{value}' is not one of {', '.join(allowed)}{nearest(value, allowed)}")


def _check_fits(tokenizer: PreTrainedTokenizerBase, source: str, config: PreTrainedConfig) -> None:
    """A tokenizer that is not the model's own must not give ids that the model has no embedding for."""
    size = config.get_text_config().vocab_size
    if len(tokenizer) > size:
        raise InputError(
            f"model.tokenizer '{source}' has {len(tokenizer)} tokens and the model only {size}; "
            "leave model.tokenizer out to use the model's own"
        )


def _name(path: str) -> str:
    return Path(path).expanduser().resolve().name


def context_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens the model takes.

    RoBERTa and its kin count positions from after the padding id, so that many rows of the table are not for
    use; models without a table or a limit (ALiBi) go by their tokenizer.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return int(tokenizer.model_max_length)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return int(limit) - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(limit)
