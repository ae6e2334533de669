from __future__ import annotations

from pathlib import Path

import pytest

from qat.data.document import SPLITS, TextDocument
from qat.data.text import TextFiles, sections
from qat.errors import InputError


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """About 300 sections of 4096 characters in one file."""
    file = tmp_path / "book.txt"
    file.write_text("".join(f"{i}: a line of a book that nobody wrote.\n" for i in range(30_000)))
    return file


def write(folder: Path, **texts: str) -> dict[str, list[str]]:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return {name: [str(folder / f"{name}.txt")] for name in texts}


def test_each_file_is_a_document(tmp_path: Path) -> None:
    write(tmp_path, a="one", b="two")
    source = TextFiles([f"{tmp_path}/*.txt"])
    expected = [TextDocument("one", f"{tmp_path}/a.txt"), TextDocument("two", f"{tmp_path}/b.txt")]
    assert list(source.documents("train")) == expected


def test_splits_with_files_of_their_own(tmp_path: Path) -> None:
    source = TextFiles(**write(tmp_path, train="one", validation="two", test="three"))
    assert [[document.text for document in source.documents(split)] for split in SPLITS] == [
        ["one"],
        ["two"],
        ["three"],
    ]


def test_separator_is_no_part_of_the_documents(tmp_path: Path) -> None:
    files = write(tmp_path, train="one<|end|>two\n<|end|>\n")
    source = TextFiles(**files, document_separator="<|end|>")
    assert [document.text for document in source.documents("train")] == ["one", "two\n"]
    assert [document.name[-12:] for document in source.documents("train")] == ["(document 1)", "(document 2)"]


def test_empty_separator() -> None:
    with pytest.raises(InputError, match="document_separator is empty"):
        TextFiles(["a.txt"], document_separator="")


def test_missing_split_names_the_options(tmp_path: Path) -> None:
    source = TextFiles(**write(tmp_path, train="one"))
    with pytest.raises(InputError, match=r"no test data; set data\.test, or data\.test_share"):
        source.documents("test")


def test_sections_end_at_the_first_line_end_after_their_size() -> None:
    assert list(sections("ab\ncd\n\nefgh\ni", size=4)) == ["ab\ncd\n", "\nefgh\n", "i"]
    assert list(sections("abc\ndef\n", size=4)) == ["abc\n", "def\n"]
    assert list(sections("no line end", size=4)) == ["no line end"]


def test_shares_of_one_book_partition_its_lines(book: Path) -> None:
    source = TextFiles([str(book)], validation_share=0.1, test_share=0.1)
    lines = {split: "".join(doc.text for doc in source.documents(split)).splitlines() for split in SPLITS}
    assert sorted(line for part in lines.values() for line in part) == sorted(book.read_text().splitlines())
    total = sum(map(len, lines.values()))
    assert all(0.05 < len(lines[split]) / total < 0.15 for split in ("validation", "test"))


def test_neighbouring_sections_stay_one_document(book: Path) -> None:
    source = TextFiles([str(book)], validation_share=0.1)
    train = list(source.documents("train"))
    validation = list(source.documents("validation"))
    assert abs(len(train) - len(validation)) <= 1
    assert all(document.text in book.read_text() for document in train + validation)


def test_text_added_at_the_end_moves_nothing(book: Path) -> None:
    source = TextFiles([str(book)], test_share=0.2)
    before = [document.text for document in source.documents("test")]
    with book.open("a") as file:
        file.write("One more line.\n")
    after = [document.text for document in TextFiles([str(book)], test_share=0.2).documents("test")]
    assert after[: len(before) - 1] == before[:-1]


def test_share_that_no_document_falls_into(tmp_path: Path) -> None:
    source = TextFiles(**write(tmp_path, train="one short text"), test_share=0.01)
    with pytest.raises(InputError, match="test split is empty: no training document falls into data.test_share="):
        list(source.documents("test"))


def test_fingerprint_follows_content_and_options_but_not_names(tmp_path: Path) -> None:
    files = write(tmp_path, train="one", other="one", third="two")

    def fingerprint(name: str, **options: object) -> str:
        return TextFiles(files[name], **options).fingerprint("train")

    assert fingerprint("train") == fingerprint("other")
    different = [
        fingerprint("train"),
        fingerprint("third"),
        fingerprint("train", document_separator="|"),
        fingerprint("train", test_share=0.5),
        fingerprint("train", add_eos=True),
    ]
    assert len(set(different)) == 5


@pytest.mark.parametrize("options", [{}, {"document_separator": "|"}, {"test_share": 0.5}])
def test_add_eos_is_handed_to_every_document(book: Path, options: dict[str, object]) -> None:
    source = TextFiles([str(book)], add_eos=False, **options)
    assert {document.add_eos for document in source.documents("train")} == {False}


def test_describe(tmp_path: Path) -> None:
    report = TextFiles(**write(tmp_path, train="one", test="three")).describe()
    assert report["files"] == {"train": [f"{tmp_path}/train.txt"], "test": [f"{tmp_path}/test.txt"]}
    assert report["bytes"] == {"train": 3, "test": 5}
    assert (report["document_separator"], report["add_eos"]) == (None, None)
    assert "train" not in report
