"""What the formats share that are a Hugging Face folder: ``config.json`` and safetensors, written tensor by tensor."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.export.base import Exporter
from qat.quantized import QuantizedWeight
from qat.tensor_files import HEADER, parse_size, read_json, write_tensors

CONFIG = "config.json"
CONFIG_KEY = "quantization_config"
"""Where ``config.json`` says how its weights are quantized."""


@dataclass(frozen=True)
class FolderExporter(Exporter):
    """A format of which transformers reads ``config.json`` and safetensors files.

    Args:
        max_shard_size: larger weights are split into files of at most this size, with an index; like "5GB".

    Raises:
        InputError: a size that cannot be read.
    """

    max_shard_size: str = "5GB"

    def __post_init__(self) -> None:
        try:
            parse_size(self.max_shard_size)
        except InputError as error:
            raise InputError(f"max_shard_size {error}") from None

    @abstractmethod
    def config(self, checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
        """The ``config.json`` of the export."""

    @abstractmethod
    def module_tensors(self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight) -> dict[str, Tensor]:
        """The tensors of one quantized module by full name.

        Called with :meth:`~qat.quantized.QuantizedWeight.without_numbers` first, to plan the files: it then gives
        tensors on the meta device, of the shapes and dtypes that come later.
        """

    def module_blocks(
        self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight
    ) -> Iterator[tuple[str, Iterable[Tensor]]]:
        """:meth:`module_tensors` with their numbers, each in blocks of rows; whole, unless a format says otherwise."""
        for full, tensor in self.module_tensors(checkpoint, name, entry).items():
            yield full, (tensor,)

    def rest_tensor(self, checkpoint: QuantizedCheckpoint, name: str, tensor: Tensor) -> Tensor:
        """An unquantized tensor as the file holds it; as it is, unless a format says otherwise.

        Called on the meta device first, like :meth:`module_tensors`; then on one block of rows after the other, but on
        the whole of a ``Conv1D``, which a format may transpose.
        """
        return tensor

    def cache_tensors(self, checkpoint: QuantizedCheckpoint) -> Mapping[str, Tensor]:
        """Scales of static keys and values as the files hold them; none, unless a format says otherwise."""
        return {}

    def metadata(self, checkpoint: QuantizedCheckpoint) -> Mapping[str, str]:
        """What the header of every safetensors file says besides its tensors."""
        return HEADER

    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write ``config.json`` and the weights."""
        text = json.dumps(self.config(checkpoint), indent=2, sort_keys=True)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
        layout, tensors = dict(self._layout(checkpoint)), self._tensors(checkpoint)
        write_tensors(directory, layout, tensors, self.max_shard_size, self.metadata(checkpoint))

    def weight_bytes(self, checkpoint: QuantizedCheckpoint) -> int:
        """Bytes of all tensors as they will lie in the files."""
        return sum(tensor.nbytes for _, tensor in self._layout(checkpoint))

    def _layout(self, checkpoint: QuantizedCheckpoint) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in checkpoint.rest_layout.items():
            yield name, self.rest_tensor(checkpoint, name, tensor)
        for name, tensor in self.cache_tensors(checkpoint).items():
            yield name, tensor.to("meta")
        for name, entry in checkpoint.weights.items():
            for full, tensor in self.module_tensors(checkpoint, name, entry.without_numbers()).items():
                yield full, tensor.to("meta")

    def _tensors(self, checkpoint: QuantizedCheckpoint) -> Iterator[tuple[str, Iterable[Tensor]]]:
        whole = {f"{name}.weight" for name in checkpoint.conv1d}
        for name in checkpoint.rest:
            blocks = (checkpoint.rest[name],) if name in whole else checkpoint.rest_blocks(name)
            yield name, map(partial(self.rest_tensor, checkpoint, name), blocks)
        for name, tensor in self.cache_tensors(checkpoint).items():
            yield name, (tensor,)
        for name, entry in checkpoint.weights.items():
            yield from self.module_blocks(checkpoint, name, entry)


def unquantized_modules(checkpoint: QuantizedCheckpoint) -> list[str]:
    """Full names of the modules that have no quantized tensors of their own in the files, sorted.

    Those whose matrices stayed float, and the second names of tied weights, which are stored under the first only.
    """
    matrices = [name for name, tensor in checkpoint.rest_layout.items() if tensor.ndim >= 2]
    second = [name for group in checkpoint.tied for name in group[1:]]
    return sorted({name.rpartition(".")[0] for name in [*matrices, *second]} - checkpoint.weights.keys())


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        InputError: it is missing or no JSON object.
    """
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory} is no model folder: it has no {CONFIG}")
    return read_json(directory / CONFIG)
