from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, GPT2Config, LlamaConfig

from qat.errors import InputError
from qat.models import build
from qat.models.loaded import LoadedModel
from qat.models.outputs import tied_groups
from qat.models.save import save_float

IDS = torch.arange(2 * 12).view(2, 12) * 41 % 1024


def test_empty_model_filled_with_a_state_is_that_model(any_model: LoadedModel, tmp_path: Path) -> None:
    save_float(any_model, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    attention = any_model.model.config._attn_implementation
    empty = build.from_config(config, any_model.task, attention=attention)
    assert type(empty) is type(any_model.model)
    assert not any(parameter.count_nonzero() for parameter in empty.parameters())
    assert tied_groups(empty) == tied_groups(any_model.model)
    assert not any(module.training for module in empty.modules())
    empty.load_state_dict(any_model.model.state_dict())
    with torch.no_grad():
        assert torch.equal(empty(input_ids=IDS)[0], any_model.model(input_ids=IDS)[0])


def test_empty_gpt2_is_built_of_linears(shrunk: Callable[..., LoadedModel]) -> None:
    empty = build.from_config(shrunk("gpt2").model.config.to_dict(), "causal_lm", dtype="bfloat16")
    layer = empty.get_submodule("transformer.h.0.mlp.c_fc")
    assert type(layer) is nn.Linear
    assert layer.weight.shape == (512, 128)  # [out, in]; GPT-2's MLP is 4 times as wide as its input
    assert layer.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (LlamaConfig(), "causal_lm"),
        (BertConfig(), "masked_lm"),
        (GPT2Config(architectures=["GPT2LMHeadModel"]), "causal_lm"),
        (BertConfig(architectures=["BertLMHeadModel"]), "causal_lm"),
        (BertConfig(architectures=["BertForMaskedLM"]), "masked_lm"),
        (BertConfig(architectures=["BertModel"]), "encoder"),
        (LlamaConfig(architectures=["SomeoneElsesForCausalLM"]), "causal_lm"),
    ],
)
def test_detect_task(config: LlamaConfig | BertConfig | GPT2Config, task: str) -> None:
    assert build.detect_task(config) == task


def test_other_heads_are_refused() -> None:
    with pytest.raises(InputError, match=r"BertForTokenClassification .* model\.task"):
        build.detect_task(BertConfig(architectures=["BertForTokenClassification"]))


def test_a_kind_of_model_without_the_head_is_refused() -> None:
    with pytest.raises(InputError, match="cannot build a llama as masked_lm"):
        build.from_config({"model_type": "llama"}, "masked_lm")
