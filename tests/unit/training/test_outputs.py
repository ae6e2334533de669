"""What a forward pass keeps for a loss, and where queries, keys and values are found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, GPT2Config, GPT2LMHeadModel

from qat.errors import InputError
from qat.prepare import prepare
from qat.scheme import preset
from qat.training import outputs, projections
from qat.training.outputs import Needs

Tiny = Any
TOKENS = torch.tensor([[1, 2, 3, 4]])


def test_only_a_causal_model_is_told_about_the_cache() -> None:
    batch = {"input_ids": TOKENS, "labels": TOKENS}
    assert outputs.arguments("causal_lm", batch) == {"input_ids": TOKENS, "use_cache": False}
    assert outputs.arguments("masked_lm", batch) == {"input_ids": TOKENS}


def test_a_loss_that_needs_nothing_gets_the_head_alone() -> None:
    seen: list[set[str]] = []

    def forward(**arguments: Any) -> SimpleNamespace:
        seen.append(set(arguments))
        return SimpleNamespace(logits=torch.zeros(1), last_hidden_state=torch.ones(1))

    assert outputs.run(forward, nn.Identity(), {"input_ids": TOKENS}, "causal_lm").head == 0
    assert outputs.run(forward, nn.Identity(), {"input_ids": TOKENS}, "encoder").head == 1
    assert seen == [{"input_ids"}, {"input_ids"}]


def test_hidden_states_are_those_of_the_blocks(tiny: Tiny) -> None:
    model = tiny.llama(0.0).eval()
    found = outputs.run(model, model, {"input_ids": TOKENS}, "causal_lm", Needs(hidden_states=True))
    assert [tuple(states.shape) for states in found.hidden_states] == [(1, 4, 32)] * 2
    assert torch.equal(model.lm_head(found.hidden_states[-1]), found.head)


@pytest.mark.parametrize("prepared", [False, True])
def test_projections_are_what_the_modules_give(tiny: Tiny, prepared: bool) -> None:
    model = tiny.llama(0.0).eval()
    if prepared:
        prepare(model, preset("w4a16_channel"))
    inputs: list[torch.Tensor] = []
    attention = model.model.layers[1].self_attn
    attention.q_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    found = outputs.run(model, model, {"input_ids": TOKENS}, "causal_lm", Needs(attention_of=-1))
    for projection, module in zip(
        found.projections, (attention.q_proj, attention.k_proj, attention.v_proj), strict=True
    ):
        assert torch.equal(projection, module(inputs[0]))
    before = [len(module._forward_hooks) for module in model.modules()]
    assert outputs.run(model, model, {"input_ids": TOKENS}, "causal_lm").projections == ()
    assert [len(module._forward_hooks) for module in model.modules()] == before, "no hook stays"
    assert sum(before) == 0


def test_encoders_name_them_otherwise() -> None:
    bert = BertModel(
        BertConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    )
    own = bert.encoder.layer[0].attention.self
    assert projections.find(bert, 0) == (own.query, own.key, own.value)
    distil = DistilBertModel(DistilBertConfig(vocab_size=8, dim=8, hidden_dim=8, n_layers=1, n_heads=2))
    assert len(projections.find(distil, -1)) == 3


def test_a_block_that_is_not_there_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"loss\.relation_block=2 is no block of the model; use 0 to 1"):
        projections.find(tiny.llama(), 2)
    with pytest.raises(InputError, match=r"loss\.relation_block=-3"):
        projections.find(tiny.llama(), -3)


def test_a_fused_projection_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    with pytest.raises(InputError, match=r"GPT2LMHeadModel has no separate query.*set loss\.relations=0"):
        projections.find(model, -1)
