from __future__ import annotations

from pathlib import Path

import pytest

from qat.data.files import decode, expand, read_text, sha256
from qat.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.txt", "a.txt", "deep/c.txt", "d[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_globs_are_sorted_and_files_come_once_in_the_order_given(folder: Path) -> None:
    assert expand(["b.txt", "[ab].txt"], "data.train") == [Path("b.txt"), Path("a.txt")]
    assert expand(["**/c.txt"], "data.train") == [Path("deep/c.txt")]


def test_a_name_with_brackets_is_a_name(folder: Path) -> None:
    assert expand(["d[1].txt"], "data.train") == [Path("d[1].txt")]


def test_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert expand(["~/a.txt"], "data.train") == [folder / "a.txt"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("aa.txt", r"data\.train: no file matches 'aa\.txt'; did you mean 'a\.txt'"),
        ("*.md", r"no file matches '\*\.md'"),
        ("nowhere/a.txt", "no file matches 'nowhere/a.txt'"),
        ("deep", r"deep is a folder; name its files, for example 'deep/\*\.txt'"),
    ],
)
def test_nothing_found(folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand(["a.txt", pattern], "data.train")


def test_a_string_is_not_a_list() -> None:
    with pytest.raises(InputError, match=r"give a list, data\.train=\[a\.txt\]"):
        expand("a.txt", "data.train")


def test_read_text_keeps_every_character_but_the_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo \n")
    assert read_text(file) == "one\r\ntwo \n"


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt is empty or only white space"):
        read_text(file)


def test_not_utf8_names_file_byte_and_offset(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8: byte 0xe9 at offset 3"):
        read_text(file)


def test_offset_counts_from_the_start_of_the_file() -> None:
    with pytest.raises(InputError, match="at offset 103"):
        decode(b"caf\xe9", "a.txt", offset=100)


def test_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        sha256(tmp_path / "a.txt")
