"""Where the blocks of each kind of model are."""

from __future__ import annotations

import pytest
from support import random_llama
from torch import nn
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from qat.errors import InputError
from qat.models import conv1d
from qat.models.blocks import transformer_blocks

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 8}
DECODERS = [Gemma3TextConfig, MistralConfig, Qwen2Config, Qwen3Config]


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        *((kind(**SMALL, num_key_value_heads=1), "layers") for kind in DECODERS),
        (BertConfig(**SMALL), "encoder.layer"),
        (DistilBertConfig(vocab_size=8, dim=16, hidden_dim=16, n_layers=2, n_heads=2), "transformer.layer"),
        (GPT2Config(vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=8), "h"),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_the_blocks_of_known_architectures(config: PreTrainedConfig, prefix: str) -> None:
    model = AutoModel.from_config(config)
    conv1d.to_linear(model)
    blocks = transformer_blocks(model)
    assert list(blocks) == [f"{prefix}.0", f"{prefix}.1"]
    assert blocks[f"{prefix}.1"] is model.get_submodule(f"{prefix}.1")


def test_names_are_those_in_the_whole_model() -> None:
    assert list(transformer_blocks(random_llama())) == ["model.layers.0", "model.layers.1"]


def test_lists_inside_a_block_and_lists_without_linears_are_no_blocks() -> None:
    block = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    model = nn.ModuleDict({"norms": nn.ModuleList([nn.LayerNorm(2)]), "body": nn.ModuleList([block])})
    assert list(transformer_blocks(model)) == ["body.0"]


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no list of transformer blocks.*ptq=rtn_mse"):
        transformer_blocks(nn.Linear(2, 2))


def test_a_model_with_two_lists_is_refused() -> None:
    config = BartConfig(
        vocab_size=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=8,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"several lists of blocks \(encoder.layers, decoder.layers\)"):
        transformer_blocks(AutoModel.from_config(config))
