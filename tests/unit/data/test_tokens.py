from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qat.data.document import ChatDocument, Document, TextDocument
from qat.data.jsonl import JsonLines
from qat.data.tokens import TokenBlocks, build_tokens
from qat.errors import InputError, RunError

Make = Callable[..., Any]


def entries(cache: Path) -> list[Path]:
    return [path for path in (cache / "tokens").iterdir() if path.suffix != ".lock"]


def items(blocks: TokenBlocks) -> list[tuple[list[int], list[int]]]:
    return [
        (item["input_ids"].tolist(), item["labels"].tolist()) for item in map(blocks.__getitem__, range(len(blocks)))
    ]


@pytest.fixture
def chats(tmp_path: Path, make_tokenizer: Make) -> tuple[JsonLines, Any]:
    """A source with untrained tokens, and its tokenizer of one token a letter."""
    lines = [{"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]}] * 3
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tokenizer = make_tokenizer(merges=0)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    return JsonLines([str(tmp_path / "chats.jsonl")]), tokenizer


def test_blocks_by_hand(tmp_path: Path, list_source: Make, letters: Make) -> None:
    """Two documents, each ended by EOS (0), in a row; the tail of one token is dropped."""
    blocks = build_tokens(list_source("abcd", "ef"), letters(), "train", 3, tmp_path)
    assert items(blocks) == [([97, 98, 99], [97, 98, 99]), ([100, 0, 101], [100, 0, 101])]
    assert blocks.block_size == 3
    assert blocks[0]["input_ids"].dtype == blocks[0]["labels"].dtype == torch.int64
    with pytest.raises(IndexError):
        blocks[2]


def test_untrained_tokens_have_no_label(tmp_path: Path, chats: tuple[JsonLines, Any]) -> None:
    source, tokenizer = chats
    a, b, c, d = (tokenizer.convert_tokens_to_ids(letter) for letter in "abcd")
    blocks = build_tokens(source, tokenizer, "train", 6, tmp_path)
    assert items(blocks) == [
        ([a, b, c, d, a, b], [-100, -100, c, d, -100, -100]),
        ([c, d, a, b, c, d], [c, d, -100, -100, c, d]),
    ]


def test_items_do_not_share_memory(tmp_path: Path, list_source: Make, letters: Make) -> None:
    blocks = build_tokens(list_source("abcd"), letters(), "train", 4, tmp_path)
    blocks[0]["labels"].fill_(7)
    blocks[0]["input_ids"].fill_(7)
    assert items(blocks) == [([97, 98, 99, 100], [97, 98, 99, 100])]


@pytest.mark.parametrize(("largest", "dtype", "letter"), [(0xFFFF, "<u2", 0xFFFD), (0x10000, "<u4", 0x10000)])
def test_ids_are_stored_as_small_as_the_vocabulary_allows(
    tmp_path: Path, list_source: Make, letters: Make, largest: int, dtype: str, letter: int
) -> None:
    blocks = build_tokens(list_source(f"a{chr(letter)}"), letters(largest), "train", 3, tmp_path)
    assert items(blocks)[0][0] == [97, letter, 0]
    (entry,) = entries(tmp_path)
    assert np.fromfile(entry / "tokens.bin", dtype).tolist() == [97, letter, 0]
    assert not (entry / "trained.bin").exists()


def test_second_time_nothing_is_read_and_any_block_size_fits(tmp_path: Path, list_source: Make, letters: Make) -> None:
    source = list_source("abcdefgh")
    first = build_tokens(source, letters(), "train", 4, tmp_path)
    again = build_tokens(source, letters(), "train", 4, tmp_path)
    other = build_tokens(source, letters(), "train", 2, tmp_path)
    assert source.reads == 1
    assert items(first) == items(again)
    assert len(other) == 4


def test_other_source_tokenizer_or_split_is_another_entry(
    tmp_path: Path, list_source: Make, make_tokenizer: Make
) -> None:
    build_tokens(list_source("abcd"), make_tokenizer(), "train", 2, tmp_path)
    build_tokens(list_source("abce"), make_tokenizer(), "train", 2, tmp_path)
    build_tokens(list_source("abcd"), make_tokenizer(eos_token=None), "train", 2, tmp_path)
    build_tokens(list_source("abcd"), make_tokenizer(), "test", 2, tmp_path)
    assert len(entries(tmp_path)) == 4


def test_another_frame_is_another_entry(
    tmp_path: Path, list_source: Make, make_tokenizer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that were cached under another rule of what stands around a text are not read."""
    source, tokenizer = list_source("abcd"), make_tokenizer(adds_bos=True)
    build_tokens(source, tokenizer, "train", 2, tmp_path)
    monkeypatch.setattr("qat.data.tokenize.frame", lambda tokenizer, add_eos=None: ([0], [1]))
    build_tokens(source, tokenizer, "train", 2, tmp_path)
    assert source.reads == 2
    assert len(entries(tmp_path)) == 2


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_count(path: Path) -> None:
    path.write_text(path.read_text().replace('"tokens": 12', '"tokens": 13'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tokens.bin", flip_bit),
        ("trained.bin", flip_bit),
        ("meta.json", flip_bit),
        ("meta.json", change_count),
        ("tokens.bin", truncate),
        ("trained.bin", truncate),
        ("meta.json", truncate),
        ("tokens.bin", Path.unlink),
        ("trained.bin", Path.unlink),
        ("meta.json", Path.unlink),
        ("", shutil.rmtree),
    ],
)
def test_damage_is_found_and_rebuilt(
    tmp_path: Path, chats: tuple[JsonLines, Any], caplog: Any, name: str, damage: Callable[[Path], None]
) -> None:
    whole = build_tokens(*chats, "train", 6, tmp_path)
    expected = items(whole)
    (entry,) = entries(tmp_path)
    damage(entry / name)
    if not name:
        entry.mkdir()  # a folder with nothing in it
    with caplog.at_level(logging.WARNING, logger="qat.data"):
        rebuilt = build_tokens(*chats, "train", 6, tmp_path)
    assert items(rebuilt) == expected
    assert "is damaged and is built again" in caplog.text
    caplog.clear()
    build_tokens(*chats, "train", 6, tmp_path)
    assert caplog.text == ""


class Interrupted:
    """A source that is stopped after its first document."""

    def documents(self, split: str) -> Iterator[Document]:
        yield TextDocument("abcd", "1")
        raise KeyboardInterrupt

    def fingerprint(self, split: str) -> str:
        return repr(("abcd", "ef"))


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, list_source: Make, letters: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_tokens(Interrupted(), letters(), "train", 2, tmp_path)  # type: ignore[arg-type]
    assert entries(tmp_path) == []
    assert len(build_tokens(list_source("abcd", "ef"), letters(), "train", 2, tmp_path)) == 4


def test_what_a_killed_build_left_is_removed(tmp_path: Path, list_source: Make, letters: Make) -> None:
    build_tokens(list_source("abcd"), letters(), "train", 2, tmp_path)
    (entry,) = entries(tmp_path)
    half = entry.parent / f".{entry.name}.12345.tmp"
    entry.rename(half)
    truncate(half / "tokens.bin")
    assert len(build_tokens(list_source("abcd"), letters(), "train", 5, tmp_path)) == 1
    assert entries(tmp_path) == [entry]


def build_and_exit(source: Any, tokenizer: Any, cache: Path, barrier: Any) -> None:
    barrier.wait()
    blocks = build_tokens(source, tokenizer, "train", 100, cache)
    os._exit(0 if len(items(blocks)) == 5001 * 20 // 100 else 1)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_processes_that_build_the_same_entry_at_once(tmp_path: Path, list_source: Make, letters: Make) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    arguments = (list_source(*["a" * 5000] * 20), letters(), tmp_path, barrier)
    workers = [context.Process(target=build_and_exit, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len(entries(tmp_path)) == 1


def test_a_spawned_worker_maps_the_files_itself(tmp_path: Path, list_source: Make, letters: Make) -> None:
    blocks = build_tokens(list_source("a" * 10_000), letters(), "train", 10, tmp_path)
    pickled = pickle.dumps(blocks)
    assert len(pickled) < 1000
    assert items(pickle.loads(pickled)) == items(blocks)


def test_default_cache_folder(
    tmp_path: Path, list_source: Make, letters: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QAT_CACHE", str(tmp_path / "cache"))
    build_tokens(list_source("abcd"), letters(), "train", 2)
    assert len(entries(tmp_path / "cache")) == 1


def test_cache_that_cannot_be_written(tmp_path: Path, list_source: Make, letters: Make) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match=r"cannot be written: Not a directory; free some space or set QAT_CACHE"):
        build_tokens(list_source("abcd"), letters(), "train", 2, tmp_path / "file")


def test_too_few_tokens_for_a_block(tmp_path: Path, list_source: Make, letters: Make) -> None:
    with pytest.raises(InputError, match=r"the test split has 5 tokens, fewer than one block of block_size=6"):
        build_tokens(list_source("abcd"), letters(), "test", 6, tmp_path)


def test_nothing_to_train_on(tmp_path: Path, make_tokenizer: Make) -> None:
    class Silent(Interrupted):
        def documents(self, split: str) -> Iterator[Document]:
            yield ChatDocument(({"role": "user", "content": "a"}, {"role": "assistant", "content": " "}), "1")

    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    with pytest.raises(InputError, match="has 1 tokens and none of them is trained"):
        build_tokens(Silent(), tokenizer, "train", 2, tmp_path)  # type: ignore[arg-type]


def test_model_without_a_tokenizer(tmp_path: Path, list_source: Make) -> None:
    with pytest.raises(InputError, match="the model has no tokenizer"):
        build_tokens(list_source("abcd"), None, "train", 2, tmp_path)


def test_misspelt_split(tmp_path: Path, list_source: Make, letters: Make) -> None:
    with pytest.raises(InputError, match="did you mean 'train'"):
        build_tokens(list_source("abcd"), letters(), "trian", 2, tmp_path)  # type: ignore[arg-type]
