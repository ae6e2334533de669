from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qat.errors import InputError
from qat.models.files import check_weights, stored_dtype


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(8), "b": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(8)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(2, 3)}, tmp_path / "two.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def test_whole_files_pass(single: Path) -> None:
    assert check_weights(single) == [single / "model.safetensors"]


def test_whole_shards_pass(sharded: Path) -> None:
    assert check_weights(sharded) == [sharded / "one.safetensors", sharded / "two.safetensors"]


@pytest.mark.parametrize(
    ("large", "small", "expected"),
    [
        (torch.bfloat16, torch.float32, "bfloat16"),
        (torch.float32, torch.bfloat16, "float32"),
        (torch.float16, torch.float16, "float16"),
        (torch.float64, torch.float16, "float32"),
    ],
)
def test_the_dtype_of_most_numbers(tmp_path: Path, large: torch.dtype, small: torch.dtype, expected: str) -> None:
    save_file({"a": torch.ones(4, dtype=large), "b": torch.ones(3, dtype=small)}, tmp_path / "one.safetensors")
    save_file({"c": torch.ones(3, 4, dtype=large), "d": torch.ones(11, dtype=small)}, tmp_path / "two.safetensors")
    assert stored_dtype([tmp_path / "one.safetensors", tmp_path / "two.safetensors"]) == expected


@pytest.mark.parametrize("length", [0, 4, 8, 40, -1])
def test_truncated(single: Path, length: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"model\.safetensors is truncated or malformed"):
        check_weights(single)


def test_longer_than_its_header_says(single: Path) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="truncated or malformed"):
        check_weights(single)


@pytest.mark.parametrize("content", [b"\x08\0\0\0\0\0\0\0notjson!", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60])
def test_malformed(single: Path, content: bytes) -> None:
    (single / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="truncated or malformed"):
        check_weights(single)


def test_lfs_pointer(single: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (single / "model.safetensors").write_text(pointer)
    with pytest.raises(InputError, match="git lfs pull"):
        check_weights(single)


def test_missing_shard(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(InputError, match=r"two\.safetensors is missing; .* places 1 tensors in it"):
        check_weights(sharded)


def test_truncated_shard(sharded: Path) -> None:
    path = sharded / "two.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"two\.safetensors is truncated"):
        check_weights(sharded)


def test_index_names_a_tensor_that_the_shard_lacks(sharded: Path) -> None:
    weight_map = {"a": "one.safetensors", "c": "two.safetensors"}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=r"two\.safetensors has no tensor 'c'"):
        check_weights(sharded)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_malformed_index(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="is not a safetensors index"):
        check_weights(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "x.pth"])
def test_pickles_only(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"pickle weights only .{name}.*save_pretrained"):
        check_weights(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"")  # a pickle, but not weights
    with pytest.raises(InputError, match="has no weights"):
        check_weights(tmp_path)
