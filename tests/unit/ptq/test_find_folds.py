"""The exact folds of blocks of many kinds, and what is refused because someone else reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from qat.models.conv1d import to_linear
from qat.ptq.find_folds import find_folds
from qat.ptq.fold import EXACT

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
GATED = SIZES | {"intermediate_size": 48, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
ATTENTION = "self_attn.q_proj, self_attn.k_proj, self_attn.v_proj"
LLAMA = {
    f"input_layernorm -> {ATTENTION}": 32,
    "self_attn.v_proj -> self_attn.o_proj": 32,
    "post_attention_layernorm -> mlp.gate_proj, mlp.up_proj": 32,
    "mlp.up_proj -> mlp.down_proj": 48,
}


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=32))


def opt() -> PreTrainedModel:
    return OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32))


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], str, dict[str, int]]] = {
    "mistral, grouped queries": (
        lambda: MistralForCausalLM(MistralConfig(**GATED, num_key_value_heads=2)),
        "model.layers.0",
        LLAMA | {"self_attn.v_proj -> self_attn.o_proj": 16},
    ),
    "qwen3, norms of heads": (
        lambda: Qwen3ForCausalLM(Qwen3Config(**GATED, num_key_value_heads=2, head_dim=16)),
        "model.layers.0",
        LLAMA,
    ),
    "gemma, 1 + weight": (
        lambda: GemmaForCausalLM(GemmaConfig(**GATED, num_key_value_heads=1, head_dim=8)),
        "model.layers.0",
        LLAMA | {"self_attn.v_proj -> self_attn.o_proj": 8},
    ),
    "gpt2, fused and transposed": (
        gpt2,
        "transformer.h.0",
        {"ln_1 -> attn.c_attn": 32, "attn.c_attn -> attn.c_proj": 32, "ln_2 -> mlp.c_fc": 32},
    ),
    "phi3, fused": (
        lambda: Phi3ForCausalLM(Phi3Config(**GATED, num_key_value_heads=2)),
        "model.layers.0",
        {
            "input_layernorm -> self_attn.qkv_proj": 32,
            "self_attn.qkv_proj -> self_attn.o_proj": 16,
            "post_attention_layernorm -> mlp.gate_up_proj": 32,
            "mlp.gate_up_proj -> mlp.down_proj": 48,
        },
    ),
    "phi, one norm for attention and MLP": (
        lambda: PhiForCausalLM(PhiConfig(**SIZES, intermediate_size=48)),
        "model.layers.0",
        {f"input_layernorm -> {ATTENTION}, mlp.fc1": 32, "self_attn.v_proj -> self_attn.dense": 32},
    ),
    "opt, ReLU": (
        opt,
        "model.decoder.layers.0",
        {
            f"self_attn_layer_norm -> {ATTENTION}": 32,
            "self_attn.v_proj -> self_attn.out_proj": 32,
            "final_layer_norm -> fc1": 32,
            "fc1 -> fc2": 48,
        },
    ),
    "bert, norms behind the residual": (
        lambda: BertForMaskedLM(BertConfig(**SIZES, intermediate_size=48)),
        "bert.encoder.layer.0",
        {"attention.self.value -> attention.output.dense": 32},
    ),
}


def at_work(model: PreTrainedModel, path: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A block, and how to run it on what it is given in the model."""
    to_linear(model.eval())
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases are ones and zeros, which would hide mistakes
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    block, seen = model.get_submodule(path), []
    handle = block.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    tokens = torch.randint(2, 100, (4, 16), generator=generator)
    with torch.no_grad():
        model(tokens, **({} if isinstance(model, BertForMaskedLM) else {"use_cache": False}))
    handle.remove()
    args, kwargs = seen[0]

    def run() -> Tensor:
        output = block(*args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    return block, run


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_folds_of_a_block(name: str) -> None:
    torch.manual_seed(0)
    make, path, expected = MODELS[name]
    block, run = at_work(make(), path)
    state = {key: value.clone() for key, value in block.state_dict().items()}
    found = find_folds(block, run)
    assert {fold.name: fold.size for fold in found.exact} == expected
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items()), "nothing is changed"

    linears = {key for key, module in block.named_modules() if isinstance(module, nn.Linear)}
    assert found.refused.keys() == linears - {key for fold in found.exact for key in fold.consumers}
    before = run()
    for fold in found.exact:
        fold.apply(fold.snapped(torch.rand(fold.size) * 3 + 0.3))
    after = run()
    assert not torch.equal(block.state_dict()[f"{fold.producer_name}.weight"], state[f"{fold.producer_name}.weight"])
    assert (after - before).norm() / before.norm() < EXACT, "all of them together leave the block what it was"


def test_why_a_linear_is_refused() -> None:
    make, path, _ = MODELS["bert, norms behind the residual"]
    refused = find_folds(*at_work(make(), path)).refused
    assert refused["intermediate.dense"] == "the output of attention.output.LayerNorm is read elsewhere too"
    assert refused["output.dense"] == "no norm or linear reaches its input channel by channel"


class Residual(nn.Module):
    """A norm whose output is added again with a small factor."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.norm, self.linear, self.share = nn.LayerNorm(8), nn.Linear(8, 8), share

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.linear(y) + self.share * y


@pytest.mark.parametrize(("share", "folds"), [(0.0, 1), (1e-3, 0), (1.0, 0)])
def test_even_a_small_second_reader_is_noticed(share: float, folds: int) -> None:
    torch.manual_seed(0)
    module, x = Residual(share), torch.randn(2, 64, 8)
    assert len(find_folds(module, lambda: module(x)).exact) == folds
