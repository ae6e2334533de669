"""What a data source yields, and the contract every source keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class TextDocument:
    """Running text; every token of it is trained.

    Attributes:
        text: the text itself, not empty.
        name: where it comes from, for error messages (a path, ``file:line``).
        add_eos: whether the EOS token ends it; None leaves that to the tokenizer, see
            :func:`qat.data.tokenize.frame`.
    """

    text: str
    name: str
    add_eos: bool | None = None

    @property
    def content(self) -> str:
        """What tells documents apart: the text."""
        return self.text


@dataclass(frozen=True)
class ChatDocument:
    """A conversation; only the tokens of the assistant's turns are trained.

    Attributes:
        messages: ``[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]``; other
            keys (``name``, ``tool_calls``) are handed to the chat template as they are.
        name: where it comes from, for error messages (``file:line``).
    """

    messages: tuple[dict[str, Any], ...]
    name: str

    @property
    def content(self) -> str:
        """What tells documents apart: the messages as JSON."""
        return json.dumps(self.messages, sort_keys=True)


Document: TypeAlias = TextDocument | ChatDocument


class Source(Protocol):
    """Where documents come from. A new source is one file with such a class and one YAML in ``configs/data``.

    The split ``"test"`` is never trained on or used to choose anything; ``"validation"`` picks the best step.
    """

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of ``split``, always in the same order.

        Raises:
            InputError: if the split is missing, empty or cannot be read.
        """
        ...

    def fingerprint(self, split: Split) -> str:
        """SHA-256 (hex) of everything that decides what :meth:`documents` yields: content and options."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the report says about the data: plain JSON values."""
        ...
