"""What is not quantized: parameters are rounded, buffers left alone, what is too large is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import random_llama
from torch import nn
from transformers import LlamaForCausalLM

from qat.errors import InputError
from qat.rest import config_of, generation_config_of, stop_tokens, unquantized


class Small(nn.Module):
    """A quantized layer, a norm, a second name for its weight, and buffers of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.twin = nn.LayerNorm(2, bias=False)
        self.twin.weight = self.norm.weight
        self.register_buffer("bias", torch.tensor([1.001]))
        self.register_buffer("steps", torch.tensor([3]))
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.001, 3.0]))


def rest(model: nn.Module, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    return unquantized(model, {"linear"}, {"twin.weight"}, dtype)


def test_parameters_are_rounded_and_buffers_are_not() -> None:
    found = rest(Small(), torch.bfloat16)
    assert set(found) == {"linear.bias", "norm.weight", "norm.bias", "bias", "steps"}
    assert torch.equal(found["norm.weight"], torch.tensor([1.0, 3.0], dtype=torch.bfloat16))  # 1.001 is 1 in 8 bits
    assert found["linear.bias"].dtype == torch.bfloat16
    assert torch.equal(found["bias"], torch.tensor([1.001])) and torch.equal(found["steps"], torch.tensor([3]))


def test_without_a_dtype_everything_stays_as_it_is_in_memory() -> None:
    model = Small().half()
    for name, tensor in rest(model, None).items():
        assert torch.equal(tensor, model.state_dict()[name]) and tensor.dtype == model.state_dict()[name].dtype


def test_a_parameter_beyond_the_dtype_is_named() -> None:
    model = Small()
    with torch.no_grad():
        model.norm.bias[1] = -70000.0
    assert rest(model, torch.bfloat16)["norm.bias"][1] == -70144.0
    with pytest.raises(InputError, match="norm.bias holds 70000, and float16 ends at 65504; set rest_dtype=float32"):
        rest(model, torch.float16)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float64])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=f"rest_dtype is {dtype}; allowed are torch.float32"):
        rest(Small(), dtype)


def test_the_config_tells_the_dtype_of_the_rest(llama) -> None:
    model: LlamaForCausalLM = llama()
    assert config_of(model, None)["dtype"] == "float32"
    assert config_of(model, torch.float16)["dtype"] == "float16"
    assert config_of(model.bfloat16(), None)["dtype"] == "bfloat16"
    assert config_of(nn.Linear(2, 2), torch.float16) == {}
    assert generation_config_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("of_config", [None, 5])
@pytest.mark.parametrize(
    "generation", [None, {}, {"eos_token_id": None}, {"eos_token_id": 7}, {"eos_token_id": [7, 9]}]
)
def test_stop_tokens_are_those_of_transformers(
    tmp_path: Path, of_config: int | None, generation: dict[str, Any] | None
) -> None:
    random_llama(num_hidden_layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": of_config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink()
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    found = LlamaForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    assert stop_tokens(config, generation) == ([] if found is None else [found] if isinstance(found, int) else found)


def test_which_of_two_names_is_stored_makes_no_difference() -> None:
    found = unquantized(Small(), {"linear"}, {"norm.weight"}, torch.bfloat16)
    assert torch.equal(found["twin.weight"], torch.tensor([1.0, 3.0], dtype=torch.bfloat16))
    assert "norm.weight" not in found


def test_the_rest_is_a_copy() -> None:
    model = Small()
    found = rest(model, None)
    with torch.no_grad():
        model.norm.weight.zero_()
        model.steps.zero_()
    assert found["norm.weight"][1] == 3.0 and found["steps"][0] == 3


def test_infinities_and_integers_are_left_as_they_are() -> None:
    model = Small()
    model.mask = nn.Parameter(torch.tensor([2**20 + 1]), requires_grad=False)
    with torch.no_grad():
        model.norm.bias[0] = -torch.inf
    found = rest(model, torch.float16)
    assert found["norm.bias"][0] == -torch.inf
    assert torch.equal(found["mask"], torch.tensor([2**20 + 1]))


def test_the_config_names_the_class_of_the_model(llama) -> None:
    assert config_of(llama(), None)["architectures"] == ["LlamaForCausalLM"]
