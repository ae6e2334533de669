"""The stage that asks every export whether it can carry the tokenizer, before anything slow begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.export.base import Exporter
from qat.models.tokenizer import save_tokenizer


def refuse_unfit(picked: Mapping[str, Exporter], checkpoint: QuantizedCheckpoint, tokenizer: Any) -> None:
    """Show every exporter the files of the tokenizer as they will lie beside the checkpoint.

    Args:
        picked: exporters by name.
        checkpoint: what is to be exported.
        tokenizer: transformers' own.

    Raises:
        InputError: one cannot carry it: its reason.
    """
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        for name, exporter in picked.items():
            try:
                exporter.takes_tokenizer(checkpoint, Path(folder))
            except InputError as error:
                raise InputError(f"export {name}: {error}") from error
