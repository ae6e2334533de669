"""TensorBoard event files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger as LightningTensorBoardLogger

from qat.errors import InputError


class TensorBoardLogger(LightningTensorBoardLogger):
    """Writes to ``<run_dir>/tensorboard``: ``tensorboard --logdir <run_dir>``.

    Args:
        run_dir: the run folder.

    Raises:
        InputError: if the package ``tensorboard`` is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        if find_spec("tensorboard") is None:
            raise InputError("logger=tensorboard needs tensorboard: pip install '.[tensorboard]' in qat's checkout")
        super().__init__(run_dir, name="tensorboard", version="", default_hp_metric=False)
