"""Quantize a model that does not fit in memory block by block: one block and the activations are in memory.

The numbers are those of the same algorithm on a model in memory, bit for bit. Finished blocks lie in a
:class:`~qat.ptq.store.BlockStore`, from which the checkpoint is written; what is outside the blocks is rounded to
nearest as it is written, like everything is in :mod:`qat.ptq.stream`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import RunError
from qat.fake_quant import FakeQuantizer
from qat.fake_quant.base import Layout
from qat.freezing import finite_grid
from qat.grid import Grid, group_count
from qat.models.blocks import transformer_blocks
from qat.models.loaded import Task
from qat.models.skeleton import Skeleton
from qat.ptq.blockwise import BlockwisePTQ, run_blocks
from qat.ptq.memory import OnDisk
from qat.ptq.rtn import RTN
from qat.ptq.store import BlockStore
from qat.ptq.stream import Numbers, lazy_checkpoint, open_prepared
from qat.scheme import Scheme
from qat.tensor_files import TensorFolder


@dataclass(frozen=True)
class BlockStream:
    """A model folder on its way to a checkpoint.

    Attributes:
        skeleton: of the folder, prepared.
        checkpoint: its layout is known from the start; its numbers can be read after :meth:`quantize`.
    """

    skeleton: Skeleton
    checkpoint: QuantizedCheckpoint
    _algorithm: BlockwisePTQ
    _numbers: _BlockNumbers

    @classmethod
    def open(
        cls,
        directory: Path,
        scheme: Scheme,
        algorithm: BlockwisePTQ,
        rest_dtype: torch.dtype | None = None,
        task: Task | None = None,
        attention: str = "sdpa",
    ) -> BlockStream:
        """Check everything that can be checked without the weights; arguments as of :func:`qat.ptq.stream.stream`.

        Args:
            attention: transformers' attention implementation.

        Raises:
            InputError: a folder, scheme or model that cannot be streamed, with the reason.
        """
        skeleton = open_prepared(directory, scheme, task)
        skeleton.model.set_attn_implementation(attention)
        numbers = _BlockNumbers(skeleton, RTN(algorithm.observer), tuple(transformer_blocks(skeleton.model)))
        return cls(skeleton, lazy_checkpoint(skeleton, scheme, numbers, rest_dtype), algorithm, numbers)

    def quantize(self, batches: Iterable[dict[str, Any]], store: BlockStore) -> None:
        """Quantize the blocks that ``store`` does not have yet. It is read from when the checkpoint is written.

        Args:
            batches: keyword arguments of the model, on the device to work on.
            store: of this model, algorithm and data.
        """
        self._numbers.stores.append(store)
        if all(name in store for name in self._numbers.blocks):
            return
        working = deepcopy(self.skeleton.model)  # on the meta device still, so it costs nothing
        run_blocks(self._algorithm, working, batches, store, OnDisk(self.skeleton))


@dataclass(frozen=True)
class _BlockNumbers(Numbers):
    """Numbers of blocks come from the store, as soon as there is one."""

    blocks: tuple[str, ...]
    stores: list[BlockStore] = field(default_factory=list)

    def grid(self, name: str, like: FakeQuantizer, layout: Grid) -> Grid:
        """See :meth:`Numbers.grid`."""
        found = self._place(name)
        if found is None:
            return super().grid(name, like, layout)
        tensors, inner = found
        weight = tensors[f"{inner}.weight"]
        groups = Layout(*group_count(tuple(weight.shape), like.args), narrow_range=like.narrow_range)
        quantizer = like.config.build(like.args, groups, like.scale_format.name)
        ranges = {key: tensors[f"{inner}.weight_fake_quantizer.{key}"] for key in quantizer.state_dict()}
        quantizer.load_state_dict(ranges)
        return finite_grid(name, quantizer, weight)

    def rest(self, name: str) -> Tensor:
        """See :meth:`Numbers.rest`."""
        found = self._place(name)
        return super().rest(name) if found is None else found[0][found[1]]

    def _place(self, name: str) -> tuple[TensorFolder, str] | None:
        """The stored block that has the module or tensor ``name``, and its name there; None outside the blocks."""
        block = next((block for block in self.blocks if name.startswith(f"{block}.")), None)
        if block is None:
            return None
        if not self.stores:
            raise RunError(f"{name} cannot be read before its block is quantized")
        return self.stores[-1].load(block), name.removeprefix(f"{block}.")
