from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import pytest
import torch
from compressed_tensors.quantization import QuantizationScheme
from safetensors import safe_open
from safetensors.torch import load_file

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.export.folder import FolderExporter, read_config, unquantized_modules
from qat.grid import Grid
from qat.quantized import Deferred, Lazy, QuantizedWeight, on_meta
from qat.scheme import Scheme
from qat.tensor_files import HEADER

SCHEME = QuantizationScheme(targets=["Linear"], weights={"num_bits": 8, "strategy": "channel"})


@dataclass(frozen=True)
class Plain(FolderExporter):
    """Codes and scales under simple names, the rest in float16."""

    def takes(self, checkpoint):
        pass

    def config(self, checkpoint):
        return {**checkpoint.config, "is": "plain"}

    def module_tensors(self, checkpoint, name, entry):
        grid = entry.grid
        return {f"{name}.c": grid.codes, f"{name}.s": grid.scale}

    def rest_tensor(self, checkpoint, name, tensor):
        return tensor.half()

    def metadata(self, checkpoint):
        return {**HEADER, "modules": ",".join(checkpoint.weights)}

    def read(self, directory):
        return {}


def deferred(name: str, log: list[str]) -> QuantizedWeight:
    grid = Grid(torch.full((4, 8), len(name), dtype=torch.int8), torch.ones(4, 1))
    return QuantizedWeight(Deferred(on_meta(grid), lambda: log.append(name) or grid), SCHEME, "Linear")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def checkpoint(log: list[str]) -> QuantizedCheckpoint:
    """Every number is read or computed when it is asked for, which ``log`` tells."""
    rest = Lazy({name: lambda name=name: log.append(name) or torch.ones(3) for name in ("norm", "bias")})
    weights = {name: deferred(name, log) for name in ("a", "bb")}
    return QuantizedCheckpoint(weights, rest, Scheme({"all": SCHEME}), {"model_type": "llama"})


def test_a_format_says_only_what_its_files_hold(tmp_path, checkpoint):
    Plain().write(checkpoint, tmp_path / "out")
    assert read_config(tmp_path / "out") == {"model_type": "llama", "is": "plain"}
    path = tmp_path / "out/model.safetensors"
    tensors = load_file(path)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == {
        "norm": (torch.float16, (3,)),
        "bias": (torch.float16, (3,)),
        "a.c": (torch.int8, (4, 8)),
        "a.s": (torch.float32, (4, 1)),
        "bb.c": (torch.int8, (4, 8)),
        "bb.s": (torch.float32, (4, 1)),
    }
    assert tensors["bb.c"].eq(2).all()
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "modules": "a,bb"}
    assert Plain().weight_bytes(checkpoint) == sum(tensor.nbytes for tensor in tensors.values())


def test_weights_are_computed_once_in_order_and_not_to_plan(tmp_path, checkpoint, log):
    exporter = Plain(max_shard_size="40B")
    exporter.weight_bytes(checkpoint)
    assert not {"a", "bb"} & set(log)
    exporter.write(checkpoint, tmp_path / "out")
    assert [name for name in log if name in ("a", "bb")] == ["a", "bb"]
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert list(dict.fromkeys(index["weight_map"].values())) == [f"model-0000{n}-of-00005.safetensors" for n in "23451"]


def test_numbers_that_are_not_as_planned_are_a_mistake_of_the_format(tmp_path, checkpoint):
    other = Grid(torch.zeros(4, 8, dtype=torch.int8), torch.ones(4, 2))
    entry = dataclasses.replace(
        checkpoint.weights["a"], numbers=Deferred(checkpoint.weights["a"].layout, lambda: other)
    )
    checkpoint.weights = {"a": entry}
    with pytest.raises(AssertionError, match=r"a\.s"):
        Plain().write(checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(InputError, match="no config.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(("quantized", "names"), [
    (["m.up"], ["lm_head", "m.embed", "m.gate"]),
    (["m.up", "m.embed"], ["lm_head", "m.gate"]),
])  # fmt: skip
def test_modules_without_quantized_tensors_of_their_own(quantized: list[str], names: list[str]) -> None:
    rest = {"m.gate.weight": torch.ones(4, 8), "m.gate.bias": torch.ones(4), "m.norm.weight": torch.ones(8)}
    if "m.embed" not in quantized:
        rest["m.embed.weight"] = torch.ones(4, 8)
    weights = {name: deferred(name, []) for name in quantized}
    tied = [["m.embed.weight", "lm_head.weight"]]
    checkpoint = QuantizedCheckpoint(weights, rest, Scheme({"all": SCHEME}), {}, tied=tied)
    assert unquantized_modules(checkpoint) == names
