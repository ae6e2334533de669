from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from qat.errors import InputError, RunError
from qat.tensor_files import (
    INDEX,
    SINGLE,
    TensorFolder,
    blocks,
    parse_size,
    read_json,
    row_blocks,
    sha256,
    write_tensors,
    writing,
)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)


def write(directory: Path, tensors: dict[str, Tensor], max_shard_size: str = "5GB", **options) -> None:
    layout = {name: tensor.to("meta") for name, tensor in tensors.items()}
    arriving = ((name, (tensor,)) for name, tensor in tensors.items())
    write_tensors(directory, layout, arriving, max_shard_size, **options)


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 50).to(dtype)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Shape, dtype and bits; NaN is equal to itself here."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    a, b = (x.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8) for x in (found, expected))
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_and_the_library_reads_it(tmp_path, dtype):
    tensors = {"matrix": numbers(3, 5, dtype=dtype), "vector": numbers(7, dtype=dtype, seed=1)}
    write(tmp_path, tensors)
    folder, library = TensorFolder(tmp_path), load_file(tmp_path / SINGLE)
    assert set(folder) == library.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same(folder[name], tensor)
        assert_same(library[name], tensor)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_floats_keep_their_bits(tmp_path, dtype):
    tiny = torch.finfo(dtype).smallest_normal / 4
    tensor = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, tiny], dtype=dtype)
    write(tmp_path, {"a": tensor})
    assert_same(TensorFolder(tmp_path)["a"], tensor)


MATRIX = numbers(4, 6)
SHAPES = {
    "transposed": MATRIX.t(),
    "every second column": MATRIX[:, ::2],
    "one column": MATRIX[:, 1],
    "expanded": numbers(1, 3).expand(5, 3),
    "inside a larger one": MATRIX[1:3],
    "one number of a strided one": MATRIX[:, 2][1:2],
    "one number in two dimensions": MATRIX[2:3, 3:4],
    "no dimension": torch.tensor(3.5),
    "an element": MATRIX[1, 2],
    "three dimensions": numbers(2, 3, 4).permute(2, 0, 1),
    "empty": torch.empty(0),
    "empty matrix": torch.empty(3, 0, dtype=torch.int8),
    "not a multiple of eight bytes": torch.ones(3, dtype=torch.uint8),
}


@pytest.mark.parametrize("tensor", SHAPES.values(), ids=SHAPES)
def test_any_shape_and_stride_is_written(tmp_path, tensor):
    before = tensor.clone()
    write(tmp_path, {"before": torch.ones(2), "a": tensor, "after": torch.ones(2)})
    for source in (TensorFolder(tmp_path), load_file(tmp_path / SINGLE)):
        assert_same(source["a"], before)
        assert_same(source["after"], torch.ones(2))


def test_the_bytes_are_the_formats(tmp_path):
    """A length of 8 bytes, a JSON header padded to 8, the numbers from the widest to the narrowest, nothing between."""
    write(tmp_path, {"a": torch.tensor([True]), "b": torch.tensor([1, 2], dtype=torch.int16)})
    content = (tmp_path / SINGLE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "I16", "shape": [2], "data_offsets": [0, 4]},
        "a": {"dtype": "BOOL", "shape": [1], "data_offsets": [4, 5]},
    }
    assert content[8 + length :] == b"\x01\x00\x02\x00\x01"


def mixed() -> dict[str, Tensor]:
    """Two tensors of every dtype, of odd sizes, the narrowest first, with names in no order."""
    tensors = {"ü": torch.tensor([True]), "empty": torch.empty(3, 0, dtype=torch.bfloat16)}
    for number, dtype in enumerate(reversed(DTYPES)):
        tensors[f"layer.{9 - number}"] = numbers(3, 5, dtype=dtype, seed=number)
        tensors[f"a\t{number}"] = numbers(1 + number, dtype=dtype, seed=number)
    return tensors


def test_a_file_is_byte_for_byte_that_of_the_library(tmp_path):
    tensors, metadata = mixed(), {"format": 'pt "quoted" ü\n\x01'}
    write(tmp_path, tensors, metadata=metadata)
    save_file(tensors, tmp_path / "library.safetensors", metadata=metadata)
    assert (tmp_path / SINGLE).read_bytes() == (tmp_path / "library.safetensors").read_bytes()


def test_each_shard_is_byte_for_byte_that_of_the_library(tmp_path):
    tensors = mixed()
    write(tmp_path, tensors, "200B")
    files: dict[str, list[str]] = {}
    for name, file in json.loads((tmp_path / INDEX).read_text())["weight_map"].items():
        files.setdefault(file, []).append(name)
    assert len(files) > 3
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, tmp_path / "library.safetensors", metadata={"format": "pt"})
        assert (tmp_path / file).read_bytes() == (tmp_path / "library.safetensors").read_bytes()


@pytest.mark.parametrize("block_bytes", [1, 40, 100, 10**6])
def test_blocks_of_rows_make_the_file_of_the_whole(tmp_path, monkeypatch, block_bytes):
    for module in (blocks, writing):
        monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    tensors = {"a": numbers(7, 5), "b": numbers(3, dtype=torch.int8), "none": torch.empty(0, 4), "c": numbers(2, 2, 4)}
    layout = {name: tensor.to("meta") for name, tensor in tensors.items()}
    cut = ((name, [tensor[rows] for rows in row_blocks(tensor)]) for name, tensor in tensors.items())
    write_tensors(tmp_path, layout, cut, "5GB")
    save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})
    assert (tmp_path / SINGLE).read_bytes() == (tmp_path / "library.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((10, 4), [3, 3, 3, 1]), ((2, 50), [1, 1]), ((3, 4), [3]), ((0, 4), [0]), ((4, 0), [4]), ((14,), [12, 2])],
)
def test_a_block_is_as_many_rows_as_fit_and_at_least_one(monkeypatch, shape, sizes):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 48)
    tensor = torch.empty(shape, device="meta")
    assert [len(tensor[rows]) for rows in row_blocks(tensor)] == sizes


def test_metadata_is_in_the_header_of_every_file(tmp_path):
    metadata = {"format": "pt", "note": 'a "quoted" ü\n'}
    write(tmp_path, {name: numbers(10) for name in "abc"}, "40B", metadata=metadata)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        with safe_open(path, "pt") as file:
            assert file.metadata() == metadata
    assert TensorFolder(tmp_path).metadata == metadata


def test_a_folder_without_metadata_has_none(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / SINGLE)
    assert TensorFolder(tmp_path).metadata == {}


def test_shards_are_cut_in_order_where_the_next_tensor_would_not_fit(tmp_path):
    sizes = {"a": 40, "b": 40, "c": 20, "d": 300, "e": 10, "f": 90}  # d alone is above the limit
    tensors = {name: numbers(size, dtype=torch.int8, seed=size) for name, size in sizes.items()}
    write(tmp_path, tensors, "100B")
    index = json.loads((tmp_path / INDEX).read_text())
    assert index == {
        "metadata": {"total_size": 500},
        "weight_map": {
            "a": "model-00001-of-00003.safetensors",
            "b": "model-00001-of-00003.safetensors",
            "c": "model-00001-of-00003.safetensors",
            "d": "model-00002-of-00003.safetensors",
            "e": "model-00003-of-00003.safetensors",
            "f": "model-00003-of-00003.safetensors",
        },
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [*sorted(set(index["weight_map"].values())), INDEX]
    folder = TensorFolder(tmp_path)
    assert set(folder) == tensors.keys() and len(folder) == 6
    for name, tensor in tensors.items():
        assert_same(folder[name], tensor)
    assert "a" in folder and "g" not in folder


@pytest.mark.parametrize("largest", ["5GB", "80B"])
def test_what_fits_is_one_file_without_an_index(tmp_path, largest):
    write(tmp_path, {"a": numbers(10), "b": numbers(10)}, largest)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_no_more_than_one_tensor_is_asked_for_ahead(tmp_path):
    """The next tensor is made after the one before is written: memory holds one."""
    tensors = {name: numbers(10, seed=index) for index, name in enumerate("abcd")}
    sizes = []

    def arriving():
        for name, tensor in tensors.items():
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield name, (tensor,)

    layout = {name: tensor.to("meta") for name, tensor in tensors.items()}
    write_tensors(tmp_path, layout, arriving(), "40B")
    assert sizes == sorted(set(sizes)) and len(sizes) == 4


@pytest.mark.parametrize(
    "arriving",
    [
        [("b", [torch.ones(2)]), ("a", [torch.ones(2)])],
        [("a", [torch.ones(3)]), ("b", [torch.ones(2)])],
        [("a", [torch.ones(1, 2)]), ("b", [torch.ones(2)])],
        [("a", [torch.ones(2).half()]), ("b", [torch.ones(2)])],
        [("a", [torch.ones(1)]), ("b", [torch.ones(2)])],
        [("a", [torch.ones(2)]), ("b", [torch.ones(2)]), ("c", [torch.ones(2)])],
    ],
    ids=["order", "size", "shape", "dtype", "a row is missing", "one more"],
)
def test_tensors_that_were_not_planned_are_a_mistake_of_the_caller(tmp_path, arriving):
    with pytest.raises(AssertionError):
        write_tensors(tmp_path, {name: torch.ones(2, device="meta") for name in "ab"}, arriving, "5GB")


@pytest.mark.parametrize("damage", ["first", "header", "last", "cut", "longer"])
def test_a_file_that_reads_back_differently_is_refused(tmp_path, monkeypatch, damage):
    reads_back = writing._reads_back

    def damaged(path: Path, written: list[tuple[int, int, bytes]]) -> bool:
        content = bytearray(path.read_bytes())
        if damage in ("first", "header", "last"):
            content[{"first": 0, "header": 20, "last": -1}[damage]] ^= 1
        path.write_bytes(content[:-1] if damage == "cut" else content + b"0" * (damage == "longer"))
        return reads_back(path, written)

    monkeypatch.setattr(writing, "_reads_back", damaged)
    with pytest.raises(RunError, match=f"{SINGLE} does not read back as it was written; check the disk"):
        write(tmp_path, {"a": torch.ones(2)})


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=f"{SINGLE} is missing"):
        TensorFolder(tmp_path)
    write(tmp_path, {name: numbers(10) for name in "abc"}, "40B")
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match="model-00002-of-00003.safetensors is missing"):
        TensorFolder(tmp_path)


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_file_that_was_cut_off_is_named(tmp_path, cut):
    write(tmp_path, {"a": numbers(10)})
    content = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(content[:-cut])
    with pytest.raises(InputError, match=f"{SINGLE} is damaged"):
        TensorFolder(tmp_path)


def test_a_promise_of_the_index_is_held(tmp_path):
    write(tmp_path, {name: numbers(10) for name in "abc"}, "40B")
    save_file({"x": torch.ones(1)}, tmp_path / "model-00003-of-00003.safetensors")
    with pytest.raises(InputError, match=f"model-00003-of-00003.safetensors lacks c, which {INDEX} promises"):
        TensorFolder(tmp_path)


def test_an_index_reaches_no_other_folder(tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    (tmp_path / "model" / INDEX).write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(InputError, match=r"model/outside\.safetensors is missing"):
        TensorFolder(tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), (" 20kb ", 20_000), ("7B", 7), ("2TB", 2 * 10**12), ("1B", 1)],
)
def test_sizes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "5", "GB", "5 GiB", "-1GB", "1e9B", "5GB or so", "0GB", "0.4B"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=f"'{text}' is no size; write a number above 0 with KB, MB, GB or TB"):
        parse_size(text)


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_json_objects_only(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="a.json is missing"):
        read_json(path)
    for text, problem in (("{", "is not JSON"), ("[1]", "is not a JSON object")):
        path.write_text(text)
        with pytest.raises(InputError, match=f"a.json {problem}"):
            read_json(path)
    path.write_text('{"a": "ü"}', encoding="utf-8")
    assert read_json(path) == {"a": "ü"}
