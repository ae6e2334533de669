"""Interpolations of our own."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import OmegaConf

from qat.errors import InputError

SHARED_DATA = "QAT_SHARED_DATA"
_BESIDE = Path("..", "shared", "data")


def register() -> None:
    """Make ``${shared_data:<path>}`` known to OmegaConf; may be called again."""
    OmegaConf.register_new_resolver("shared_data", shared_data, replace=True)


def shared_data(path: str) -> str:
    """A file or folder of the development data, which is not part of qat: ``$QAT_SHARED_DATA/<path>``.

    Without the variable it is looked for beside the checkout, in ``../shared/data``.

    Raises:
        InputError: if the data is not there.
    """
    folder = Path(os.environ.get(SHARED_DATA) or _BESIDE)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; this recipe reads {path} in it: set {SHARED_DATA}=<folder>")
    return str(folder / path)
