"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from qat.data.document import Split, TextDocument
from qat.data.file_source import FileSource
from qat.data.files import read_text
from qat.errors import InputError

# Characters, about a thousand tokens: a section's tokens are mostly predicted from the section itself, and a
# share of a single book is still made of many sections.
_SECTION = 4096


@dataclass(eq=False)
class TextFiles(FileSource):
    """UTF-8 text files, each one document, or several where ``document_separator`` cuts it.

    A split without files of its own can be a share of the training files. What is shared out is then the
    document if a separator is set, otherwise sections of at least 4096 characters that end at a line's end;
    neighbouring sections of the same split stay one document.

    Besides the options of :class:`~qat.data.file_source.FileSource`:

    Args:
        document_separator: text between documents, for example ``"<|endoftext|>"``; it is not part of them.

    Raises:
        InputError: if the separator is empty.
    """

    document_separator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.document_separator == "":
            raise InputError("document_separator is empty; use null for one document a file")

    def read(self, path: Path, split: Split) -> Iterator[TextDocument]:
        """Yield the documents of one file that belong to ``split``."""
        text = read_text(path)
        if self.document_separator is not None:
            for number, part in enumerate(text.split(self.document_separator), start=1):
                if part.strip() and self.hold_out.keeps(split, part):
                    yield TextDocument(part, f"{path} (document {number})", self.add_eos)
        elif self.hold_out.divides(split):
            for belongs, run in groupby(sections(text), key=lambda part: self.hold_out.keeps(split, part)):
                if belongs:
                    yield TextDocument("".join(run), str(path), self.add_eos)
        else:
            yield TextDocument(text, str(path), self.add_eos)


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
