"""The queries, keys and values of one attention block, recorded while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qat.errors import InputError
from qat.hosts import block_index

# How Llama and its kin, BERT and its kin, and DistilBERT name the three modules.
_QUERIES, _KEYS, _VALUES = ("q_proj", "query", "q_lin"), ("k_proj", "key", "k_lin"), ("v_proj", "value", "v_lin")


@contextmanager
def recorded(model: nn.Module, block: int | None) -> Iterator[list[Tensor]]:
    """A list that holds queries, keys and values of ``block`` once the model has run; it stays empty for None.

    Raises:
        InputError: see :func:`find`.
    """
    found: list[Tensor] = []
    if block is None:
        yield found
        return

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        found.append(output)

    handles = [module.register_forward_hook(keep) for module in find(model, block)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def find(model: nn.Module, block: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The modules that give queries, keys and values of ``block``; a negative number counts from the last block.

    Raises:
        InputError: if the model has no such block, or its attention has no three modules of the known names.
    """
    by_block: dict[int, dict[str, nn.Module]] = {}
    for name, module in model.named_modules():
        leaf, index = name.rpartition(".")[2], block_index(name)
        if index is not None and leaf in (*_QUERIES, *_KEYS, *_VALUES):
            by_block.setdefault(index, {})[leaf] = module
    if not by_block:
        raise InputError(
            f"{type(model).__name__} has no separate query, key and value projections, which the relations of "
            "loss=distill_hidden are made of; set loss.relations=0"
        )
    count = 1 + max(by_block)
    there = by_block.get(block + count if block < 0 else block)
    if there is None:
        raise InputError(
            f"loss.relation_block={block} is no block of the model; use 0 to {count - 1}, or -1 for the last"
        )
    queries, keys, values = (
        next(there[name] for name in names if name in there) for names in (_QUERIES, _KEYS, _VALUES)
    )
    return queries, keys, values
