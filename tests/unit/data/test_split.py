from __future__ import annotations

import hashlib

import pytest

from qat.data.split import HoldOut, check_shares, check_split, split_of
from qat.errors import InputError

KEYS = [f"folder/file{i}.py" for i in range(2000)]


def test_position_is_the_first_8_bytes_of_the_hash() -> None:
    position = int(hashlib.sha256(b"qat:a.py").hexdigest()[:16], 16) / 16**16
    assert split_of("a.py", 0.0, position + 1e-9) == "test"
    assert split_of("a.py", 0.0, position) == "train"
    assert split_of("a.py", 1e-9, position) == "validation"


def test_shares_are_met() -> None:
    splits = [split_of(key, 0.1, 0.2) for key in KEYS]
    assert 0.08 < splits.count("validation") / len(KEYS) < 0.12
    assert 0.17 < splits.count("test") / len(KEYS) < 0.23


def test_validation_share_never_moves_the_test_split() -> None:
    assert all((split_of(key, 0.0, 0.1) == "test") == (split_of(key, 0.5, 0.1) == "test") for key in KEYS)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.0), (0.0, 1.0), (0.5, 0.5), (float("nan"), 0.0)])
def test_bad_shares(validation: float, test: float) -> None:
    with pytest.raises(InputError, match="share"):
        check_shares(validation, test)


def test_misspelt_split() -> None:
    with pytest.raises(InputError, match="did you mean 'validation'"):
        check_split("validaton")


def test_own_files_are_used_whole() -> None:
    hold_out = HoldOut(["train", "test"], 0.5, 0.0)
    assert hold_out.origin("test") == "test"
    assert all(hold_out.keeps("test", key) for key in KEYS)


def test_shares_partition_the_training_documents() -> None:
    hold_out = HoldOut(["train"], 0.2, 0.3)
    assert {hold_out.origin(split) for split in ("train", "validation", "test")} == {"train"}
    for key in KEYS[:100]:
        assert sum(hold_out.keeps(split, key) for split in ("train", "validation", "test")) == 1


def test_training_documents_are_whole_without_shares() -> None:
    assert all(HoldOut(["train"], 0.0, 0.0).keeps("train", key) for key in KEYS)


def test_missing_split_names_the_options() -> None:
    with pytest.raises(InputError, match=r"set data\.test, or data\.test_share"):
        HoldOut(["train"], 0.1, 0.0).origin("test")
    with pytest.raises(InputError, match=r"no train data; set data\.splits\.train$"):
        HoldOut([], 0.1, 0.1, option="data.splits").origin("test")


def test_files_and_share_for_the_same_split() -> None:
    with pytest.raises(InputError, match=r"both test and test_share=0\.1"):
        HoldOut(["train", "test"], 0.0, 0.1)


def test_options_change_with_the_shares_only_where_they_matter() -> None:
    a, b = HoldOut(["train", "test"], 0.1, 0.0), HoldOut(["train", "test"], 0.2, 0.0)
    assert a.options("test") == b.options("test")
    assert a.options("train") != b.options("train")
    assert a.options("train") != a.options("validation")


def test_not_empty() -> None:
    hold_out = HoldOut(["train"], 0.1, 0.0)
    assert list(hold_out.not_empty("train", iter([1, 2]))) == [1, 2]
    with pytest.raises(InputError, match="no training document falls into data.validation_share=0.1"):
        list(hold_out.not_empty("validation", iter([])))
