"""The inputs of every block, from one pass over the calibration data in which no block but the first is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qat.errors import InputError
from qat.ptq.block import BlockInput


class _AllSeen(Exception):
    """The last block was reached: what comes after it is of no interest."""


@torch.no_grad()
def capture(
    model: nn.Module, blocks: Mapping[str, nn.Module], batches: Iterable[dict[str, Any]]
) -> dict[str, list[BlockInput]]:
    """What the model hands to each of its blocks, batch by batch, kept in main memory.

    Masks and positions may differ from block to block (sliding windows), so they are taken for each; the hidden states
    are those of the first block everywhere, and right for that one only.

    Args:
        model: in evaluation mode; its blocks but the first need no numbers.
        blocks: all of them in order.
        batches: keyword arguments of the model.

    Raises:
        InputError: a model that does not run its blocks once each, in their order.
    """
    recorder = _Recorder(blocks)
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    with ExitStack() as undo:
        for name, block in blocks.items():
            block.forward = partial(recorder.stand_in, name, block.forward)
            undo.callback(delattr, block, "forward")
        for batch in batches:
            recorder.begin()
            try:
                model(**batch, **options)
            except _AllSeen:
                continue
            raise InputError(f"{type(model).__name__} does not run its last block {list(blocks)[-1]}; take ptq=rtn_mse")
    return recorder.seen


class _Recorder:
    """Stands in for the blocks: notes what they are given, and hands the hidden states on."""

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        self.seen: dict[str, list[BlockInput]] = {name: [] for name in blocks}
        self._order = list(blocks)
        self._gives_tuple: bool | None = None
        self.begin()

    def begin(self) -> None:
        """A new batch."""
        self._next = 0
        # Blocks share masks and positions: each is kept once. The originals are held, so that no address is used again.
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def stand_in(self, name: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of the forward of the block ``name``."""
        if self._next == len(self._order) or name != self._order[self._next]:
            raise InputError(f"{name} does not run once and in its turn, so it cannot be quantized block by block")
        self._next += 1
        given = BlockInput(args, kwargs)
        self.seen[name].append(BlockInput(tree_map(self._keep, args), tree_map(self._keep, kwargs)))
        if self._gives_tuple is None:  # what a block returns is only known from one that runs
            self._gives_tuple = isinstance(forward(*args, **kwargs), tuple)
        if self._next == len(self._order):
            raise _AllSeen
        return (given.hidden,) if self._gives_tuple else given.hidden

    def _keep(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return self._kept.setdefault(id(value), (value, value.cpu()))[1]
