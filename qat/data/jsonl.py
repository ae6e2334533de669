"""JSON Lines files: a text or a chat a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.data.document import Document, Split
from qat.data.file_source import FileSource
from qat.data.files import decode, open_bytes
from qat.data.rows import to_document
from qat.errors import InputError


@dataclass(eq=False)
class JsonLines(FileSource):
    """One JSON object a line: ``{"text": "..."}`` or ``{"messages": [{"role": ..., "content": ...}, ...]}``.

    Lines that are blank or whose text is blank are skipped.

    Besides the options of :class:`~qat.data.file_source.FileSource`:

    Args:
        text_key: key of a text.
        messages_key: key of a chat; where a line has both keys, the chat counts.
    """

    text_key: str = "text"
    messages_key: str = "messages"

    def read(self, path: Path, split: Split) -> Iterator[Document]:
        """Yield the documents of one file that belong to ``split``."""
        offset = 0
        with open_bytes(path) as file:
            for number, content in enumerate(file, start=1):
                name = f"{path}:{number}"
                line = decode(content, name, offset).removeprefix("\ufeff").strip()
                offset += len(content)
                if not line:
                    continue
                document = to_document(_parse(line, name), self.text_key, self.messages_key, name, self.add_eos)
                if document and self.hold_out.keeps(split, document.content):
                    yield document


def _parse(line: str, name: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise InputError(f"{name} must be an object with a text or messages, got {line:.60}")
    return row
