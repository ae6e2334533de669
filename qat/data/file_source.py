"""What sources that read files have in common."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from qat.data.document import SPLITS, Document, Split
from qat.data.files import expand, sha256
from qat.data.split import HoldOut

_WHICH_FILES = {*SPLITS, "validation_share", "test_share"}


@dataclass(eq=False)
class FileSource(ABC):
    """Documents from the files of each split, or from a share of the training files.

    A subclass is a dataclass that adds its own options and says how one file is read; see
    :class:`qat.data.text.TextFiles`.

    Args:
        train: files and globs, relative to the current folder.
        validation: the same for the validation split.
        test: the same for the test split.
        validation_share: without ``validation``, the share of ``train``'s documents held out for it.
        test_share: without ``test``, the share of ``train``'s documents held out for it.
        add_eos: whether the EOS token ends each text; None: where the tokenizer adds no special token itself.

    Raises:
        InputError: if a share is out of range, or given beside files for the same split.
    """

    train: list[str]
    validation: list[str] | None = None
    test: list[str] | None = None
    validation_share: float = 0.0
    test_share: float = 0.0
    add_eos: bool | None = None

    def __post_init__(self) -> None:
        patterns = (self.train, self.validation, self.test)
        self.patterns: dict[Split, list[str]] = {
            split: given for split, given in zip(SPLITS, patterns, strict=True) if given
        }
        self.hold_out = HoldOut(self.patterns, self.validation_share, self.test_share)

    @abstractmethod
    def read(self, path: Path, split: Split) -> Iterator[Document]:
        """Yield the documents of one file that belong to ``split``."""

    def options(self) -> dict[str, Any]:
        """The options that decide what documents a file has: part of the fingerprint."""
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name not in _WHICH_FILES}

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
