"""What a training refuses before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from qat.data.masking import Masking
from qat.errors import InputError
from qat.hosts import range_parameters
from qat.schedule.schedule import PrecisionSchedule
from qat.training import projections
from qat.training.losses import Loss

if TYPE_CHECKING:
    from qat.models.loaded import Task


def check_parts(
    model: nn.Module,
    loss: Loss,
    task: Task,
    schedule: PrecisionSchedule | None,
    teacher: nn.Module | None,
    masking: Masking | None,
) -> None:
    """Refuse parts that do not fit each other; the arguments are those of :class:`qat.training.module.QATModule`.

    Raises:
        InputError: if the loss does not fit the task or the model, a teacher or masking is missing, a phase would
            train nothing, or the weights are not float32.
    """
    loss.check(task)
    if loss.teacher is not None and loss.top_k is None and teacher is None:
        raise InputError(f"loss {type(loss).__name__} needs a float teacher and none was given")
    if loss.needs.attention_of is not None:
        projections.find(model, loss.needs.attention_of)
    if task == "masked_lm" and masking is None:
        raise InputError("a masked_lm model needs a tokenizer with a mask token; this model has none")
    if schedule is not None:
        if schedule.trains_ranges_only and not range_parameters(model):
            raise InputError("a phase trains clip ranges only and none is learned; set fake_quantizer=lsq")
        if schedule.reconstructs and teacher is None:
            raise InputError(
                "a phase trains blocks to give what those of the float model give, and no float teacher was given; "
                "give one, or leave block_reconstruction out"
            )
    check_dtype(model)


def check_dtype(model: nn.Module) -> None:
    """Refuse 16-bit weights: an update below their last bit is lost, so at usual rates they do not move."""
    narrow = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    if narrow:
        raise InputError(
            f"'{narrow[0]}' is {model.get_parameter(narrow[0]).dtype}, and training needs float32 weights; "
            "set model.dtype=float32, and trainer.precision=bf16-mixed for 16-bit arithmetic"
        )
