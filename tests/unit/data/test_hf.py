from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from qat.data.document import ChatDocument, TextDocument
from qat.data.hf import HuggingFace
from qat.errors import InputError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A folder with the splits ``train`` and ``dev``, as ``save_to_disk`` writes it."""
    splits = {
        "train": datasets.Dataset.from_dict({"text": ["one", "", "two"], "id": [1, 2, 3]}),
        "dev": datasets.Dataset.from_dict({"text": ["three"], "id": [4]}),
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def texts(source: HuggingFace, split: str) -> list[str]:
    return [document.content for document in source.documents(split)]  # type: ignore[arg-type]


def test_splits_are_mapped_and_blank_rows_skipped(saved: str) -> None:
    source = HuggingFace(saved, splits={"train": "train", "validation": "dev", "test": None})
    assert list(source.documents("train")) == [
        TextDocument("one", f"{saved} (train, row 0)"),
        TextDocument("two", f"{saved} (train, row 2)"),
    ]
    assert texts(source, "validation") == ["three"]


def test_a_single_saved_dataset_is_the_train_split(tmp_path: Path) -> None:
    stories = [f"story {i}" for i in range(20)]
    datasets.Dataset.from_dict({"story": stories}).save_to_disk(str(tmp_path))
    source = HuggingFace(str(tmp_path), splits={"train": "train"}, test_share=0.5, text_key="story")
    train, test = texts(source, "train"), texts(source, "test")
    assert 0 < len(train) < 20
    assert sorted(train + test) == sorted(stories)


def test_chats(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"messages": [CHAT]}).save_to_disk(str(tmp_path))
    source = HuggingFace(str(tmp_path), splits={"train": "train"})
    assert list(source.documents("train")) == [ChatDocument(tuple(CHAT), f"{tmp_path} (train, row 0)")]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("trian", r"has no split 'trian', only train, dev; did you mean 'train'\?; set data\.splits"),
        ("train[:1]", r"'train\[:1\]': a folder that save_to_disk wrote cannot be sliced"),
    ],
)
def test_split_that_is_not_there(saved: str, theirs: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(HuggingFace(saved, splits={"train": theirs}).documents("train"))


def test_column_that_is_not_there(saved: str) -> None:
    source = HuggingFace(saved, splits={"train": "train"}, text_key="texts")
    with pytest.raises(InputError, match=r"row 0\) has neither 'texts' nor 'messages', only text, id; did you mean"):
        list(source.documents("train"))


def test_missing_split_names_the_options(saved: str) -> None:
    with pytest.raises(InputError, match=r"no test data; set data\.splits\.test, or data\.test_share"):
        HuggingFace(saved, splits={"train": "train"}).documents("test")


def test_unknown_split_of_ours() -> None:
    with pytest.raises(InputError, match="split 'valid' is not one of train, validation, test"):
        HuggingFace("some/set", splits={"valid": "dev"})


def test_folder_of_data_files_and_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(json.dumps({"text": f"story {i}"}) for i in range(4)))
    source = HuggingFace(str(tmp_path / "data"), splits={"train": "train[:3]", "test": "train[3:]"})
    assert texts(source, "train") == ["story 0", "story 1", "story 2"]
    assert texts(source, "test") == ["story 3"]
    assert source.fingerprint("train") != source.fingerprint("test")


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset '.*' cannot be loaded: .*doesn't contain any data files"):
        HuggingFace(str(tmp_path)).fingerprint("train")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach\n'some/set'"),
            "cannot be reached: Couldn't reach 'some/set'; check the",
        ),
        (ValueError("BuilderConfig 'x' not found"), "cannot be loaded: BuilderConfig 'x' not found"),
        (
            RuntimeError("Dataset scripts are no longer supported"),
            "cannot be loaded: Dataset scripts are no longer",
        ),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), "cannot be loaded: doesn't exist"),
    ],
)
def test_errors_of_the_library_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def load_dataset(path: str, name: str | None, **_: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=f"^dataset 'some/set' {message}"):
        list(HuggingFace("some/set").documents("train"))


def test_fingerprint_is_stable_and_follows_rows_and_options(saved: str) -> None:
    splits: dict[str, str | None] = {"train": "train", "validation": "dev"}
    source = HuggingFace(saved, splits=splits)
    assert source.fingerprint("train") == HuggingFace(saved, splits=splits).fingerprint("train")
    assert source.fingerprint("train") != source.fingerprint("validation")
    assert source.fingerprint("train") != HuggingFace(saved, splits=splits, text_key="id").fingerprint("train")
    assert source.fingerprint("train") != HuggingFace(saved, splits=splits, add_eos=True).fingerprint("train")
    shared = HuggingFace(saved, splits=splits, test_share=0.5)
    assert len({shared.fingerprint("train"), shared.fingerprint("test"), source.fingerprint("train")}) == 3


def test_describe(saved: str) -> None:
    report = HuggingFace(saved, splits={"train": "train", "test": "dev"}).describe()
    assert report["path"] == saved
    assert report["rows"] == {"train": 3, "test": 1}
