"""Chats -> token ids and which of them the assistant wrote.

The text comes from the tokenizer's own chat template. Which part of it the assistant wrote is known in two
ways:

- a template with ``{% generation %}`` tags says so itself;
- otherwise each assistant turn ``i`` is what ``messages[:i + 1]`` adds to ``messages[:i]`` plus the
  generation prompt, that is, exactly what the model would write when asked for turn ``i``, its end-of-turn
  token included. This holds only if a template renders the first turns of a chat the same whatever follows,
  which is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from jinja2 import TemplateError

from qat.data.document import ChatDocument
from qat.errors import InputError

Tokenizer = Any  # a transformers tokenizer

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Llama 3's template writes today's date unless it is given one. Data must not change by the day, so every
# chat gets the date that the template falls back to itself; templates without a date ignore it.
_TEMPLATE_OPTIONS = {"date_string": "26 Jul 2024"}


def encode_chats(documents: Iterable[ChatDocument], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield ``(ids, trained)`` of each chat; ``trained`` marks the tokens of the assistant's turns.

    Raises:
        InputError: if the tokenizer has no chat template or no character offsets, or if the assistant's turns
            of a chat cannot be told from the rest.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            f"the data is a chat and the tokenizer of '{tokenizer.name_or_path}' has no chat template; "
            "use an instruction-tuned model's tokenizer (model.tokenizer=<folder>) or data with a 'text' key"
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"the data is a chat and the tokenizer of '{tokenizer.name_or_path}' cannot tell "
            "which characters a token stands for; use one with a tokenizer.json"
        )
    has_tags = _GENERATION_TAG.search(tokenizer.get_chat_template()) is not None
    encode = _encode_by_tags if has_tags else _encode_by_prefixes
    for document in documents:
        yield encode(document, tokenizer)


def _encode_by_tags(document: ChatDocument, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    encoded = _apply(
        tokenizer,
        document,
        len(document.messages),
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    trained = [bool(mark) for mark in encoded["assistant_masks"]]
    # transformers loses turns, silently, when a tokenizer gives no token for a turn's first or last character
    # (a space, for the many that trim offsets).
    turns = sum(
        role == "assistant" and any(message["content"].strip() for message in messages)
        for role, messages in groupby(document.messages, key=lambda message: message["role"])
    )
    marked = sum(mark for mark, _ in groupby(trained))
    if marked < turns:
        raise InputError(
            f"{document.name}: the chat template marks {marked} of {turns} assistant turns as generated; "
            "remove spaces at the ends of the messages, or correct the template's {% generation %} tags"
        )
    return encoded["input_ids"], trained


def _encode_by_prefixes(document: ChatDocument, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    text = _apply(tokenizer, document, len(document.messages), tokenize=False)
    turns = _assistant_spans(document, text, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # A token belongs to the turn that its last character is in: byte-level tokenizers may report a leading
    # space as outside the token, and a token that joins header and answer must be learned to begin the
    # answer.
    trained = [any(start < end <= stop for start, stop in turns) for _, end in encoded["offset_mapping"]]
    return encoded["input_ids"], trained


def _assistant_spans(document: ChatDocument, text: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Character ranges ``[start, stop)`` of the assistant's turns in ``text``, the whole chat rendered."""
    spans = []
    for i, message in enumerate(document.messages):
        if message["role"] != "assistant":
            continue
        if i == 0:
            raise InputError(
                f"{document.name}: the chat begins with the assistant, and its chat template has no "
                "{% generation %} tags to tell that turn from the template's own text; "
                "put a user or system message before it"
            )
        prompt = _apply(tokenizer, document, i, tokenize=False, add_generation_prompt=True)
        answered = _apply(tokenizer, document, i + 1, tokenize=False)
        if not (text.startswith(answered) and answered.startswith(prompt)):
            raise InputError(
                f"{document.name}: the chat template of '{tokenizer.name_or_path}' renders message {i + 1} "
                "(assistant) differently when it is not the last or when it is generated, so it is unclear "
                "which tokens to train; give chats with one assistant turn, "
                "or a template with {% generation %} tags"
            )
        spans.append((len(prompt), len(answered)))
    return spans


def _apply(tokenizer: Tokenizer, document: ChatDocument, count: int, **options: Any) -> Any:
    """Apply the chat template to the first ``count`` messages."""
    try:
        return tokenizer.apply_chat_template(list(document.messages[:count]), **_TEMPLATE_OPTIONS, **options)
    except TemplateError as error:
        raise InputError(
            f"{document.name}: the chat template of '{tokenizer.name_or_path}' refuses this chat: {error}"
        ) from error
