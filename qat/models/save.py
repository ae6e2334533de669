"""Write a float model as a Hugging Face folder that transformers and the engines load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

from qat import paths
from qat.models import conv1d
from qat.models.build import quiet, torch_dtype
from qat.models.files import CONFIG
from qat.models.loaded import Dtype, LoadedModel
from qat.models.tokenizer import save_tokenizer


def save_float(loaded: LoadedModel, directory: str | Path, dtype: Dtype | None = None) -> None:
    """Write weights (safetensors), config and tokenizer; the folder appears whole or not at all.

    Tied weights are written once, and layers that transformers builds as ``Conv1D`` are turned back, so that
    plain transformers loads the folder.

    Args:
        loaded: a model that is not prepared for quantization.
        directory: must not exist yet.
        dtype: of the file's weights; the model's own by default. The model in memory is not changed.

    Raises:
        InputError: if ``directory`` exists.
    """
    with paths.new_folder(Path(directory)) as temporary:
        _write(loaded, temporary, loaded.model.dtype if dtype is None else torch_dtype(dtype))


def _write(loaded: LoadedModel, directory: Path, dtype: torch.dtype) -> None:
    config, before = loaded.model.config, loaded.model.config.dtype
    try:
        with quiet():
            loaded.model.save_pretrained(directory, state_dict=_stored_state(loaded.model, dtype))
    finally:
        config.dtype = before  # save_pretrained turns it into a string
    path = directory / CONFIG
    values = json.loads(path.read_text(encoding="utf-8"))
    values["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_tokenizer(loaded.tokenizer, directory)


def _stored_state(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The state dict as it goes to the file; names of one tied tensor share one tensor here too."""
    transposed = {f"{name}.weight" for name in conv1d.stored_transposed(model)}
    stored: dict[int, torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in stored:
            value = tensor.detach().t().contiguous() if name in transposed else tensor.detach()
            stored[id(tensor)] = value.to(dtype) if value.is_floating_point() else value
        state[name] = stored[id(tensor)]
    return state
