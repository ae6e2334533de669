"""Documents -> token ids and which of them are trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from qat.data.chat import encode_chats
from qat.data.document import ChatDocument, Document, TextDocument

Tokenizer = Any  # a transformers tokenizer; transformers itself is not imported in this layer

# Characters in one call of the tokenizer: enough to keep all its threads busy, and few enough that its
# offsets and strings (some 200 bytes a token) stay small. Longer texts are cut into pieces of this length.
_BATCH_CHARACTERS = 1_000_000


class Encoded(NamedTuple):
    """The tokens of one document, or of one piece of a long one.

    Attributes:
        ids: ``int64 [tokens]``.
        trained: ``bool [tokens]``, False where a token gives context only.
    """

    ids: npt.NDArray[np.int64]
    trained: npt.NDArray[np.bool_]


def encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Tokenize documents in order.

    Text is framed as the tokenizer frames it by default (with a BOS token if it adds one), ends with the EOS
    token if the tokenizer has one, and is trained as a whole. A chat is rendered by the tokenizer's own chat
    template and trained on the assistant's turns only, see :mod:`qat.data.chat`.

    Raises:
        InputError: if a chat cannot be rendered or its assistant turns cannot be told apart.
    """
    for kind, group in groupby(documents, key=type):
        if kind is ChatDocument:
            for ids, trained in encode_chats(cast(Iterator[ChatDocument], group), tokenizer):
                yield Encoded(np.asarray(ids, dtype=np.int64), np.asarray(trained, dtype=np.bool_))
        else:
            yield from encode_texts(cast(Iterator[TextDocument], group), tokenizer)


def encode_texts(
    documents: Iterable[TextDocument], tokenizer: Tokenizer, batch_characters: int = _BATCH_CHARACTERS
) -> Iterator[Encoded]:
    """Tokenize texts in batches; a text longer than ``batch_characters`` comes in several pieces.

    A long text is cut before a space, which byte-level tokenizers split at anyhow; others may give one token
    more at a cut than in one go.
    """
    prefix, suffix = _frame(tokenizer)
    for batch in _batches(documents, batch_characters):
        encoded = tokenizer(
            [text for text, _, _ in batch],
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for (_, first, last), ids in zip(batch, encoded, strict=True):
            framed = np.asarray([*(prefix if first else ()), *ids, *(suffix if last else ())], dtype=np.int64)
            yield Encoded(framed, np.ones(len(framed), dtype=np.bool_))


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 (hex) of what decides a document's ids: vocabulary, rules, chat template, BOS and EOS."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # Left behind by whoever called the tokenizer last, and set anew by every call.
        rules.pop("truncation", None)
        rules.pop("padding", None)
    else:
        rules = {"class": type(tokenizer).__qualname__, "vocab": tokenizer.get_vocab()}
    decides = {
        "rules": rules,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "frame": _frame(tokenizer),
        "chat_template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text: those the tokenizer adds by default, and EOS at the end.

    They are found by encoding one letter with and without them, since tokenizers keep them in many places.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    prefix, suffix = framed[:start], framed[start + len(bare) :]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in suffix:
        suffix = [*suffix, tokenizer.eos_token_id]
    return prefix, suffix


def _batches(documents: Iterable[TextDocument], characters: int) -> Iterator[list[tuple[str, bool, bool]]]:
    """Group pieces ``(text, is first, is last of its document)`` into lists of about ``characters``."""
    batch: list[tuple[str, bool, bool]] = []
    size = 0
    for document in documents:
        start = 0
        while start < len(document.text):
            end = _cut(document.text, start, start + characters)
            batch.append((document.text[start:end], start == 0, end == len(document.text)))
            size += end - start
            start = end
            if size >= characters:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _cut(text: str, start: int, end: int) -> int:
    """Where to end the piece that begins at ``start``: before the last space up to ``end``, or at ``end``."""
    if end >= len(text):
        return len(text)
    space = text.rfind(" ", start + 1, end)
    return space if space > start else end
