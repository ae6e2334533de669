"""One forward pass of a model, with as much of it kept as a loss needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qat.training.projections import recorded

if TYPE_CHECKING:
    from qat.models.loaded import Task


@dataclass(frozen=True)
class Needs:
    """What a loss looks at besides the head; nothing else is kept.

    Attributes:
        hidden_states: what each block gives.
        attention_of: the block whose queries, keys and values are kept; -1 is the last one, None for none.
    """

    hidden_states: bool = False
    attention_of: int | None = None


_HEAD = Needs()  # alone


@dataclass(frozen=True)
class Output:
    """What a forward pass gave.

    Attributes:
        head: logits ``[batch, block, vocabulary]``, or the last hidden states ``[batch, block, hidden]`` when the
            task is ``encoder``.
        hidden_states: of every block, ``[batch, block, hidden]`` each; empty if the loss does not need them.
        projections: queries, keys and values ``[batch, block, width]`` of one block, before any rotation; empty
            if the loss does not need them.
    """

    head: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    projections: tuple[Tensor, ...] = ()


def run(
    forward: Callable[..., Any], model: nn.Module, inputs: dict[str, Any], task: Task, needs: Needs = _HEAD
) -> Output:
    """Call ``forward``, that of ``model`` or what was compiled of it, and keep what ``needs`` says.

    Args:
        forward: takes the keyword arguments ``inputs``.
        model: where queries, keys and values are recorded.
        inputs: see :func:`arguments`.
        task: says what the head gives.
        needs: of the loss.
    """
    if needs.hidden_states:
        inputs = {**inputs, "output_hidden_states": True}
    with recorded(model, needs.attention_of) as projections:
        output = forward(**inputs)
    head: Tensor = output.last_hidden_state if task == "encoder" else output.logits
    # The first hidden state is the embedding's.
    hidden_states = tuple(output.hidden_states[1:]) if needs.hidden_states else ()
    return Output(head, hidden_states, tuple(projections))


def arguments(task: Task, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of a model's forward; only a causal model has a cache, which training never reads."""
    return {"input_ids": batch["input_ids"]} | ({"use_cache": False} if task == "causal_lm" else {})
