from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qat.data.document import SPLITS, ChatDocument, TextDocument
from qat.data.jsonl import JsonLines
from qat.errors import InputError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def write(folder: Path, *lines: Any) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_texts_and_chats_in_order_with_their_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "one"}, "", {"messages": CHAT}, {"text": " "}, {"text": "two", "id": 7})
    assert list(JsonLines([path]).documents("train")) == [
        TextDocument("one", f"{path}:1"),
        ChatDocument(tuple(CHAT), f"{path}:3"),
        TextDocument("two", f"{path}:5"),
    ]


def test_keys_are_options(tmp_path: Path) -> None:
    path = write(tmp_path, {"story": "one", "text": "no"}, {"story": "no", "chat": CHAT})
    documents = list(JsonLines([path], text_key="story", messages_key="chat").documents("train"))
    assert [document.content for document in documents] == ["one", json.dumps(CHAT, sort_keys=True)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a",', r"data\.jsonl:2 is not JSON: .* at column 14"),
        ('["text"]', r"data\.jsonl:2 must be an object"),
        ({"txt": "a"}, r"data\.jsonl:2 has neither 'text' nor 'messages', only txt; did you mean 'txt'"),
        ({"text": 3}, r"data\.jsonl:2: 'text' must be a string, got 3"),
        ({"text": None}, r"data\.jsonl:2: 'text' must be a string, got None"),
        ({"messages": [{"role": "usr", "content": "a"}]}, r"data\.jsonl:2: message 1 has role 'usr'"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path, {"text": "one"}, line)
    with pytest.raises(InputError, match=message):
        list(JsonLines([path]).documents("train"))


def test_not_utf8_names_line_and_offset(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2 is not UTF-8: byte 0xff at offset 24"):
        list(JsonLines([str(tmp_path / "a.jsonl")]).documents("train"))


def test_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert [document.text for document in JsonLines([str(tmp_path / "a.jsonl")]).documents("train")] == ["a"]


def test_file_without_a_document(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train split is empty: it has no document"):
        list(JsonLines([write(tmp_path, "", {"text": ""})]).documents("train"))


def test_shares_partition_the_lines_and_keep_duplicates_together(tmp_path: Path) -> None:
    path = write(tmp_path, *({"text": f"story {i % 100}"} for i in range(200)))
    source = JsonLines([path], validation_share=0.2, test_share=0.2)
    texts = {split: [document.text for document in source.documents(split)] for split in SPLITS}
    assert sum(map(len, texts.values())) == 200
    assert not set(texts["train"]) & (set(texts["validation"]) | set(texts["test"]))
    assert all(texts[split].count(text) == 2 for split in SPLITS for text in texts[split])


def test_fingerprint_follows_the_options(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "one"})
    options: list[dict[str, Any]] = [{}, {"text_key": "b"}, {"messages_key": "b"}, {"add_eos": True}]
    assert len({JsonLines([path], **each).fingerprint("train") for each in options}) == 4


def test_add_eos_is_handed_to_every_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "one"}, {"messages": CHAT})
    text, chat = JsonLines([path], add_eos=True).documents("train")
    assert text == TextDocument("one", f"{path}:1", add_eos=True)
    assert isinstance(chat, ChatDocument)
