"""Make documents of rows: objects with a text or a chat, as JSON Lines and `datasets` have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat.data.document import ChatDocument, Document, TextDocument
from qat.errors import InputError, nearest

ROLES = ("system", "user", "assistant", "tool")


def to_document(
    row: Mapping[str, Any], text_key: str, messages_key: str, name: str, add_eos: bool | None = None
) -> Document | None:
    """Make a document of a row that has a text or a chat; None if the text is blank.

    Args:
        row: the row.
        text_key: key of a text.
        messages_key: key of a chat.
        name: where the row comes from, for error messages.
        add_eos: whether the EOS token ends a text, see :class:`~qat.data.document.TextDocument`.

    Raises:
        InputError: if it has neither, or if its value is of the wrong type.
    """
    if row.get(messages_key) is not None:
        return ChatDocument(check_messages(row[messages_key], name), name)
    if text_key not in row:
        raise InputError(
            f"{name} has neither '{text_key}' nor '{messages_key}', only {', '.join(row) or 'nothing'}"
            f"{nearest(text_key, row)}; set data.text_key or data.messages_key"
        )
    text = row[text_key]
    if not isinstance(text, str):
        raise InputError(f"{name}: '{text_key}' must be a string, got {_short(text)}")
    return TextDocument(text, name, add_eos) if text.strip() else None


def check_messages(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    """Return ``value`` as messages.

    Args:
        value: what should be a list like ``[{"role": "user", "content": "Hi"}, ...]``.
        name: where it comes from, for the error message.

    Raises:
        InputError: unless it is a list of objects with a known ``role`` and a string ``content``, of which at
            least one is the assistant's.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f"{name}: messages must be a list that is not empty, got {_short(value)}")
    for number, message in enumerate(value, start=1):
        where = f"{name}: message {number}"
        if not isinstance(message, dict):
            raise InputError(f"{where} must be an object with role and content, got {_short(message)}")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise InputError(
                f"{where} has role {_short(role)}; allowed are {', '.join(ROLES)}{nearest(str(role), ROLES)}"
            )
        if not isinstance(content, str):
            raise InputError(f"{where} must have a string as content, got {_short(content)}")
    if not any(message["role"] == "assistant" for message in value):
        raise InputError(f"{name}: the chat has no assistant turn, so there is nothing to train on; remove it")
    return tuple(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
