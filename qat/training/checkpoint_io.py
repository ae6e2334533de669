"""Checkpoint files that are whole or not there, and that load without unpickling foreign classes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from qat.errors import DiskFull, InputError, RunError, is_disk_full


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the final name, flushes to disk, then renames: a kill or a full disk leaves the old file.

    Reads tensors and plain values only (``torch.load(weights_only=True)``), since a checkpoint may come from
    someone else.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            DiskFull: no space left; what was at ``path`` before is untouched.
            RunError: it cannot be written; likewise.
        """
        final = Path(path)
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            before = "the one before it is kept" if final.exists() else "there is none before it"
            if _is_full(error):
                raise DiskFull(
                    f"cannot write {final}: no space left on the disk; free some and resume; {before}"
                ) from error
            reason = str(error).partition("\n")[0]
            raise RunError(f"cannot write {final}: {reason}; {before}") from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read the checkpoint at ``path``; tensors go to ``map_location``.

        Raises:
            InputError: if the file is missing, damaged, or holds anything but tensors and plain values.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except FileNotFoundError as error:
            raise InputError(f"there is no checkpoint {path}; start the run anew") from error
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is not a readable checkpoint ({reason}); start the run anew") from error
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete the file at ``path``, if it is there."""
        Path(path).unlink(missing_ok=True)


def _is_full(error: Exception) -> bool:
    """Whether the disk is full, which torch reports as a RuntimeError of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if is_disk_full(cause):
            return True
        cause = cause.__context__
    return False
