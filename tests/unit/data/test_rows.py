from __future__ import annotations

from typing import Any

import pytest

from qat.data.document import ChatDocument
from qat.data.rows import check_messages, to_document
from qat.errors import InputError

ANSWER = {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must be a list that is not empty"),
        ("Hi", "must be a list that is not empty, got 'Hi'"),
        (["Hi"], "message 1 must be an object with role and content"),
        ([ANSWER, {"content": "Hi"}], "message 2 has role None; allowed are system, user, assistant, tool"),
        ([{"role": "asistant", "content": "Hi"}], "did you mean 'assistant'"),
        ([{"role": "user"}, ANSWER], "message 1 must have a string as content, got None"),
        ([{"role": "user", "content": ["Hi"]}, ANSWER], "message 1 must have a string as content"),
        ([{"role": "user", "content": "Hi"}], "no assistant turn"),
    ],
)
def test_bad_messages(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^here.*{message}"):
        check_messages(messages, "here")


def test_every_role_and_other_keys_pass() -> None:
    messages = [{"role": role, "content": "", "name": "n"} for role in ("system", "user", "tool", "assistant")]
    assert check_messages(messages, "here") == tuple(messages)


def test_chat_counts_where_a_row_has_both() -> None:
    row = {"text": "no", "messages": [ANSWER]}
    assert to_document(row, "text", "messages", "here") == ChatDocument((ANSWER,), "here")


def test_text_counts_where_the_chat_is_null() -> None:
    document = to_document({"text": "yes", "messages": None}, "text", "messages", "here")
    assert document is not None
    assert document.content == "yes"
