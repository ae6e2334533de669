"""Documents -> token ids and which of them are trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from qat.data.chat import encode_chats
from qat.data.document import ChatDocument, Document, TextDocument
from qat.errors import InputError

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


class _Piece(NamedTuple):
    """A part of a text that is tokenized in one go, and the special tokens around it."""

    text: str
    prefix: list[int]
    suffix: list[int]


def encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Tokenize documents in order.

    Text is trained as a whole, between the special tokens that :func:`frame` finds. A chat is rendered by the
    tokenizer's own chat template and trained on the assistant's turns only, see :mod:`qat.data.chat`.

    Raises:
        InputError: if a chat cannot be rendered, its assistant turns cannot be told apart, or a text is to end
            with an EOS token that the tokenizer does not have.
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
    for batch in _batches(documents, tokenizer, batch_characters):
        encoded = tokenizer(
            [piece.text for piece in batch],
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for piece, ids in zip(batch, encoded, strict=True):
            framed = np.asarray([*piece.prefix, *ids, *piece.suffix], dtype=np.int64)
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
        "frame": frame(tokenizer),
        "chat_template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def frame(tokenizer: Tokenizer, add_eos: bool | None = None) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text.

    They are those that the tokenizer adds by default, since that is what the model was trained with. A model
    whose texts begin with BOS has often never seen EOS inside a block, and predicts badly what comes around it.
    Only where the tokenizer adds nothing, so that texts would run into each other, EOS ends each.

    Args:
        tokenizer: a transformers tokenizer.
        add_eos: True ends a text with EOS whatever the tokenizer does, False adds nothing to its own tokens.

    Raises:
        InputError: if ``add_eos`` is True and the tokenizer has no EOS token.
    """
    # Found by encoding one letter with and without them, since tokenizers keep them in many places.
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    prefix, suffix = framed[:start], framed[start + len(bare) :]
    eos = tokenizer.eos_token_id
    if add_eos and eos is None:
        raise InputError(
            f"data.add_eos=true, and the tokenizer of '{tokenizer.name_or_path}' has no EOS token; "
            "set data.add_eos=null"
        )
    wanted = not (prefix or suffix) if add_eos is None else add_eos
    if wanted and eos is not None and eos not in suffix:
        suffix = [*suffix, eos]
    return prefix, suffix


def _batches(documents: Iterable[TextDocument], tokenizer: Tokenizer, characters: int) -> Iterator[list[_Piece]]:
    """Cut texts into pieces and group these into lists of about ``characters``."""
    frame_of = cache(lambda add_eos: frame(tokenizer, add_eos))
    batch: list[_Piece] = []
    size = 0
    for document in documents:
        prefix, suffix = frame_of(document.add_eos)
        text, start = document.text, 0
        while start < len(text):
            end = _cut(text, start, start + characters)
            batch.append(_Piece(text[start:end], prefix if start == 0 else [], suffix if end == len(text) else []))
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
