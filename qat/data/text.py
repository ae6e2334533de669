"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from qat.data.document import Split, TextDocument
from qat.data.file_source import FileSource
from qat.data.files import read_text
from qat.errors import InputError

# Characters, about a thousand tokens: a section's tokens are mostly predicted from the section itself, and a
# share of a single book is still made of many sections.
_SECTION = 4096


class TextFiles(FileSource):
    """UTF-8 text files, each one document, or several where ``document_separator`` cuts it.

    A split without files of its own can be a share of the training files. What is shared out is then the
    document if a separator is set, otherwise sections of at least 4096 characters that end at a line's end;
    neighbouring sections of the same split stay one document.

    Args:
        train: files and globs, relative to the current folder.
        validation: the same for the validation split.
        test: the same for the test split.
        validation_share: without ``validation``, the share of ``train`` held out for it.
        test_share: without ``test``, the share of ``train`` held out for it.
        document_separator: text between documents, for example ``"<|endoftext|>"``; it is not part of them.

    Raises:
        InputError: if a share is out of range, or the separator is empty.
    """

    def __init__(
        self,
        train: list[str],
        validation: list[str] | None = None,
        test: list[str] | None = None,
        validation_share: float = 0.0,
        test_share: float = 0.0,
        document_separator: str | None = None,
    ) -> None:
        super().__init__(train, validation, test, validation_share, test_share)
        if document_separator == "":
            raise InputError("document_separator is empty; use null for one document a file")
        self.document_separator = document_separator

    def options(self) -> dict[str, Any]:
        """The separator."""
        return {"document_separator": self.document_separator}

    def read(self, path: Path, split: Split) -> Iterator[TextDocument]:
        """Yield the documents of one file that belong to ``split``."""
        text = read_text(path)
        if self.document_separator is not None:
            for number, part in enumerate(text.split(self.document_separator), start=1):
                if part.strip() and self.hold_out.keeps(split, part):
                    yield TextDocument(part, f"{path} (document {number})")
        elif self.hold_out.divides(split):
            for belongs, run in groupby(sections(text), key=lambda part: self.hold_out.keeps(split, part)):
                if belongs:
                    yield TextDocument("".join(run), str(path))
        else:
            yield TextDocument(text, str(path))


def sections(text: str, size: int = _SECTION) -> Iterator[str]:
    """Cut a text at line ends into parts of at least ``size`` characters (the last may be shorter).

    The parts joined are the text.
    """
    start = 0
    while (end := text.find("\n", start + size - 1) + 1) > 0:
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
