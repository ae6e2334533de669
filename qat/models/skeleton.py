"""A model without its weights: modules, names and ties on the meta device, and the files that hold its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from qat.errors import InputError
from qat.models import build, conv1d
from qat.models.files import CONFIG, check_weights, read_config
from qat.models.loaded import Task
from qat.models.loading import check_extra, state_ties
from qat.models.outputs import tied_groups
from qat.tensor_files import TensorFolder


@dataclass(frozen=True)
class Skeleton:
    """What :func:`qat.models.hf.load` would have in memory, on the meta device.

    Attributes:
        model: in evaluation mode, float32; ``Conv1D`` swapped for ``nn.Linear``, weights tied as in the files.
        task: which head.
        tensors: the folder's.
        stored: name of a parameter or buffer of the model -> its name in the folder: another one for a tied weight.
        transposed: parameters that the files hold as [in, out].
    """

    model: PreTrainedModel
    task: Task
    tensors: TensorFolder
    stored: dict[str, str]
    transposed: frozenset[str]

    def read(self, name: str) -> Tensor:
        """One parameter or buffer, in the files' dtype, shaped as the model has it; mapped from its file."""
        tensor = self.tensors[self.stored[name]]
        return tensor.t() if name in self.transposed else tensor

    @torch.no_grad()
    def fill_buffers(self, module: nn.Module) -> None:
        """Compute the buffers of its own that ``module``, by now off the meta device, keeps in no file.

        It is what transformers does behind loading: rotary frequencies, position ids, scales of embeddings.
        """
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            setattr(tensor, "_is_hf_initialized", name not in module._non_persistent_buffers_set)  # noqa: B010
        self.model._init_weights(module)


def open_skeleton(folder: Path, task: Task | None = None) -> Skeleton:
    """The skeleton of a Hugging Face folder; its weights are checked by their headers and not read.

    Args:
        folder: ``config.json`` and safetensors files.
        task: which head, where the config names no class or another one is wanted.

    Raises:
        InputError: a folder that cannot be loaded, or one whose tensors transformers would rename or join while
            loading: here they are read by the model's own names.
    """
    config = read_config(folder)
    task = task or build.detect_task(config)
    check_weights(folder)
    tensors = TensorFolder(folder)
    model = build.on_meta(config, task)
    _take_generation_config(model, folder)
    transposed = frozenset(f"{name}.weight" for name in conv1d.to_linear(model))
    _untie(model, tensors)
    skeleton = Skeleton(model, task, tensors, _stored_names(model, tensors), transposed)
    _check(skeleton, folder)
    return skeleton


def _take_generation_config(model: PreTrainedModel, folder: Path) -> None:
    """As ``from_pretrained`` does: that of the folder, or what an old ``config.json`` says of it."""
    if not model.can_generate():
        return
    try:
        found = GenerationConfig.from_pretrained(folder)
    except OSError:
        found = GenerationConfig.from_pretrained(folder, config_file_name=CONFIG, _from_model_config=True)
    model.generation_config = found


def _untie(model: PreTrainedModel, tensors: TensorFolder) -> None:
    """Part weights that the config ties and of which the files hold two that differ, as transformers does."""
    for first, *others in tied_groups(model):
        for name in others:
            if first in tensors and name in tensors and not torch.equal(tensors[first], tensors[name]):
                module, _, own = name.rpartition(".")
                setattr(model.get_submodule(module), own, nn.Parameter(torch.empty_like(model.get_parameter(name))))
    state_ties(model)


def _stored_names(model: PreTrainedModel, tensors: TensorFolder) -> dict[str, str]:
    """Each tensor of the model with its name in the folder; of those that are tied one is enough."""
    names = {name: name for name in model.state_dict() if name in tensors}
    for group in tied_groups(model):
        found = next((name for name in group if name in tensors), None)
        names |= {name: found for name in group if found is not None}
    return names


def _check(skeleton: Skeleton, folder: Path) -> None:
    state = skeleton.model.state_dict()
    if missing := sorted(state.keys() - skeleton.stored.keys()):
        raise InputError(
            f"{folder} has no tensor '{missing[0]}', which a {type(skeleton.model).__name__} needs: the folder is not "
            "whole, or its tensors have names of an older kind, which cannot be streamed; quantize it without stream"
        )
    check_extra(folder, skeleton.model, [name for name in skeleton.tensors if name not in state])
    for name, tensor in state.items():
        found = skeleton.read(name).shape
        if found != tensor.shape:
            raise InputError(
                f"tensor '{name}' in {folder} has shape {list(found)}, {CONFIG} makes it {list(tensor.shape)}; "
                "config and weights are of different models"
            )
