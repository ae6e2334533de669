"""Where metrics go, one logger a file; wandb and TensorBoard are imported only when a run picks them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from pytorch_lightning.loggers import Logger

from qat.training.loggers.csv import CsvLogger

__all__ = ["ArtifactLogger", "CsvLogger", "log_artifact"]


@runtime_checkable
class ArtifactLogger(Protocol):
    """A logger that keeps files."""

    def log_artifact(self, path: Path, name: str, type: str) -> None:
        """Keep the file or folder at ``path``."""


def log_artifact(loggers: Iterable[Logger], path: Path, name: str, type: str) -> None:
    """Hand a finished file or folder to every logger that keeps files; the others have no place for it.

    Args:
        loggers: those of the run.
        path: an export, for example.
        name: name of the artifact; letters, digits, ``-``, ``_`` and ``.``.
        type: kind of artifact, for example ``export``.
    """
    for logger in loggers:
        if isinstance(logger, ArtifactLogger):
            logger.log_artifact(path, name, type)
