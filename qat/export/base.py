"""What every export format shares: a folder that is finished or absent, never half-written."""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import DiskFull, InputError, is_disk_full
from qat.paths import new_folder
from qat.quantized import KVScales, ReadModule

SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
)
"""Files of a tokenizer, whatever its kind."""

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_WRITABLE = "make its folder writable, or copy the run folder to where you may write (it can lie anywhere)"
_SMALL_FILES = 1 << 17
"""Bytes allowed for configs, headers, a graph and the blocks of the file system, beside a hundredth of the weights."""


class Exporter(ABC):
    """Writes a quantized checkpoint as one file format, and reads it back.

    A format is one subclass in one file and one YAML in ``configs/export``, whose name is the format's. It
    implements :meth:`takes`, :meth:`write_files`, :meth:`weight_bytes` and :meth:`read`; :meth:`write` does what
    all share.
    """

    holds_activations: ClassVar[bool] = True
    """Whether the files hold how input activations are rounded; False where an engine decides that by itself."""

    streams: ClassVar[bool] = True
    """Whether it writes tensor by tensor; False where it needs the whole model in memory."""

    @abstractmethod
    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """Return if this format can hold ``checkpoint``.

        Raises:
            InputError: it cannot, with the reason and what to do instead.
        """

    def takes_tokenizer(self, checkpoint: QuantizedCheckpoint, tokenizer_dir: Path) -> None:  # noqa: B027
        """Return if this format can carry the tokenizer in ``tokenizer_dir``; one that copies its files can.

        Raises:
            InputError: it cannot, with the reason and what to do instead.
        """

    @abstractmethod
    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write config and weights into ``directory``, where the tokenizer's files lie, which it may rewrite."""

    @abstractmethod
    def weight_bytes(self, checkpoint: QuantizedCheckpoint) -> int:
        """Bytes that the weight files will need."""

    @abstractmethod
    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """Read the numbers of every quantized module back from the files, by full module name."""

    def read_kv_cache(self, directory: Path) -> Mapping[str, KVScales]:
        """Read the scales of static keys and values back, by full name of their attention; a format may hold none."""
        return {}

    def write(
        self,
        checkpoint: QuantizedCheckpoint,
        directory: Path,
        tokenizer_dir: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write ``checkpoint`` to the folder ``directory``, whole or not at all.

        Args:
            checkpoint: what to write.
            directory: its parents are made.
            tokenizer_dir: folder whose tokenizer is copied beside the weights.
            overwrite: whether ``directory`` may exist; what is in it stays until the new export is complete.

        Raises:
            InputError: ``directory`` exists, or cannot be written, or the format cannot hold the checkpoint.
            DiskFull: no disk space; nothing is left behind.
        """
        directory = Path(directory)
        self.takes(checkpoint)
        needed = self.bytes_needed(checkpoint, tokenizer_dir)
        try:
            with new_folder(directory, overwrite) as temporary:
                if shutil.disk_usage(temporary).free < needed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                checkpoint.write_generation_config(temporary)
                if tokenizer_dir is not None:
                    copy_side_files(Path(tokenizer_dir), temporary)
                self.write_files(checkpoint, temporary)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _READ_ONLY:
                raise InputError(_no_access(error, directory)) from error
            if is_disk_full(error):
                raise DiskFull(_no_space(needed, directory)) from error
            raise

    def bytes_needed(self, checkpoint: QuantizedCheckpoint, tokenizer_dir: Path | None = None) -> int:
        """Bytes of the whole folder, a little too many: headers and configs are not counted but allowed for."""
        weights = self.weight_bytes(checkpoint)
        tokenizer = [] if tokenizer_dir is None else _side_files(Path(tokenizer_dir))
        return weights + sum(path.stat().st_size for path in tokenizer) + weights // 100 + _SMALL_FILES


def refuse_kv_cache(checkpoint: QuantizedCheckpoint, name: str, reason: str) -> None:
    """Return if nothing is to be said of keys and values: for a format that has no words for them.

    Raises:
        InputError: the scheme rounds them.
    """
    if checkpoint.scheme.kv_cache is not None:
        raise InputError(f"{name} cannot hold how keys and values are rounded (scheme.kv_cache): {reason}")


def _no_space(needed: int, directory: Path) -> str:
    """What is lacking, told when nothing of the export is on the disk any more."""
    free = shutil.disk_usage(next(parent for parent in directory.absolute().parents if parent.is_dir())).free
    taken = " again; look for a quota or another program that fills the disk" if free >= needed else ""
    return (
        f"no disk space left for {directory}: it needs about {needed:,} bytes and {free:,} are free{taken}; "
        "free some there, or move the run folder to another disk (it can lie anywhere)"
    )


def _no_access(error: OSError, directory: Path) -> str:
    """What to do where the system refuses: the file may be one to read, far from ``directory``."""
    target, refused = directory.absolute(), Path(error.filename or directory).absolute()
    if refused.is_relative_to(target.parent) or target.is_relative_to(refused):
        return f"{directory} cannot be written ({error.strerror}); {_WRITABLE}"
    return f"{error.filename} cannot be opened ({error.strerror}), which {directory} needs; make it accessible"


def copy_side_files(source: Path, directory: Path) -> None:
    """Copy the tokenizer that lies in ``source``.

    Raises:
        InputError: ``source`` is no folder, or there is no tokenizer in it.
    """
    if not source.is_dir():
        raise InputError(f"tokenizer folder {source} does not exist")
    found = _side_files(source)
    if not found:
        raise InputError(f"no tokenizer in {source}, which an export needs; save one there (tokenizer.save_pretrained)")
    for path in found:
        shutil.copyfile(path, directory / path.name)


def _side_files(source: Path) -> list[Path]:
    return [source / name for name in SIDE_FILES if (source / name).is_file()]


def folder_bytes(directory: Path) -> int:
    """Bytes of all files in ``directory``: what an upload of the export costs."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
