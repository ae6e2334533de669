"""What sources that read files have in common."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from qat.data.document import SPLITS, Document, Split
from qat.data.files import expand, sha256
from qat.data.split import HoldOut


class FileSource(ABC):
    """Documents from the files of each split, or from a share of the training files.

    A subclass says how one file is read; see :class:`qat.data.text.TextFiles`.

    Args:
        train: files and globs, relative to the current folder.
        validation: the same for the validation split.
        test: the same for the test split.
        validation_share: without ``validation``, the share of ``train``'s documents held out for it.
        test_share: without ``test``, the share of ``train``'s documents held out for it.

    Raises:
        InputError: if a share is out of range, or given beside files for the same split.
    """

    def __init__(
        self,
        train: list[str],
        validation: list[str] | None,
        test: list[str] | None,
        validation_share: float,
        test_share: float,
    ) -> None:
        self.patterns: dict[Split, list[str]] = {
            "train": train,
            "validation": validation or [],
            "test": test or [],
        }
        given = [split for split in SPLITS if self.patterns[split]]
        self.hold_out = HoldOut(given, validation_share, test_share)

    @abstractmethod
    def read(self, path: Path, split: Split) -> Iterator[Document]:
        """Yield the documents of one file that belong to ``split``."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Options that decide what documents a file has: part of the fingerprint."""

    def files(self, split: Split) -> list[Path]:
        """The files that the documents of ``split`` are in."""
        origin = self.hold_out.origin(split)
        return expand(self.patterns[origin], f"data.{origin}")

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of ``split`` in the order of the files.

        Raises:
            InputError: if there is none, or a file is missing, empty, not UTF-8 or not in its format.
        """
        found = (document for path in self.files(split) for document in self.read(path, split))
        return self.hold_out.not_empty(split, found)

    def fingerprint(self, split: Split) -> str:
        """SHA-256 over the files' contents and the options; their names do not matter."""
        decides = [
            type(self).__name__,
            self.options(),
            self.hold_out.options(split),
            [self._sha256[path] for path in self.files(split)],
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Files, bytes and hash of each split that has files of its own, the options and the shares."""
        given = [split for split in SPLITS if split in self.hold_out.given]
        return {
            "source": type(self).__name__,
            "files": {split: [str(path) for path in self.files(split)] for split in given},
            "bytes": {split: sum(path.stat().st_size for path in self.files(split)) for split in given},
            "corpus_sha256": hashlib.sha256("".join(map(self.fingerprint, given)).encode()).hexdigest(),
            "shares": self.hold_out.shares,
            **self.options(),
        }

    @cached_property
    def _sha256(self) -> dict[Path, str]:
        """Every file is hashed once, also where several splits read it."""
        return {path: sha256(path) for split in self.hold_out.given for path in self.files(split)}
