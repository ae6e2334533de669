"""Finished blocks on disk: what an interrupted algorithm takes up again, and where a streamed one keeps its result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from qat.errors import InputError
from qat.paths import new_folder
from qat.tensor_files import HEADER, SINGLE, TensorFolder, write_tensors

_ONE_FILE = "1000TB"
_LOSS = "loss"


@dataclass(frozen=True)
class BlockStore:
    """One folder a block, which appears under the block's name only when it is whole.

    Args:
        directory: of one run of one algorithm; made when the first block is saved.
    """

    directory: Path

    def __contains__(self, name: object) -> bool:
        return (self.directory / str(name)).is_dir()

    def save(self, name: str, state: Mapping[str, Tensor], loss: float) -> None:
        """Keep the ``state_dict`` of the block ``name``, and its loss.

        Raises:
            RunError: what was written does not read back.
        """
        tensors = {key: tensor.detach().cpu() for key, tensor in state.items()}
        layout = {key: tensor.to("meta") for key, tensor in tensors.items()}
        with new_folder(self.directory / name) as temporary:
            blocks = ((key, (tensor,)) for key, tensor in tensors.items())
            # repr gives a float back as it was.
            write_tensors(temporary, layout, blocks, _ONE_FILE, {**HEADER, _LOSS: repr(loss)})
            with (temporary / SINGLE).open("rb") as file:  # on the disk before it has its name: power may fail
                os.fsync(file.fileno())

    def load(self, name: str) -> TensorFolder:
        """The tensors of a saved block, by their names in it; mapped from the file.

        Raises:
            InputError: the block is not there, or its file is damaged.
        """
        try:
            return TensorFolder(self.directory / name)
        except InputError as error:
            raise InputError(f"{error}; or remove {self.directory / name}, and resume to make it again") from None

    def loss(self, name: str) -> float:
        """The loss that was saved with a block."""
        return float(self.load(name).metadata[_LOSS])

    def clear(self) -> None:
        """Remove everything, once the result is elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)
