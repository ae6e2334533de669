from __future__ import annotations

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from qat.models import conv1d

NAMES = [
    f"transformer.h.{layer}.{name}"
    for layer in range(2)
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=16))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too, which start at zero
    return model.eval()


def test_same_logits_and_gradients_as_gpt2() -> None:
    original, swapped = tiny_gpt2(), tiny_gpt2()
    assert conv1d.to_linear(swapped) == NAMES
    ids = torch.arange(16).view(1, 16) * 7 % 64
    losses = [model(ids, labels=ids) for model in (original, swapped)]
    torch.testing.assert_close(losses[1].logits, losses[0].logits, rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.loss.backward()
    theirs, ours = (model.get_submodule(NAMES[0]) for model in (original, swapped))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad.t(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-6)


def test_weight_is_transposed_and_contiguous() -> None:
    layer = Conv1D(nf=6, nx=4)
    holder = nn.ModuleDict({"layer": layer})
    conv1d.to_linear(holder)
    linear = holder["layer"]
    assert type(linear) is nn.Linear
    assert (linear.in_features, linear.out_features) == (4, 6)
    assert torch.equal(linear.weight, layer.weight.t())
    assert linear.weight.is_contiguous()
    assert linear.bias is layer.bias


def test_idempotent() -> None:
    model = tiny_gpt2()
    conv1d.to_linear(model)
    modules = dict(model.named_modules())
    assert conv1d.to_linear(model) == []
    assert dict(model.named_modules()) == modules


def test_mode_and_frozen_weights_are_kept() -> None:
    model = tiny_gpt2().requires_grad_(False)
    conv1d.to_linear(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_stored_transposed_holds_before_and_after_the_swap() -> None:
    model = tiny_gpt2()
    assert conv1d.stored_transposed(model) == NAMES
    conv1d.to_linear(model)
    assert conv1d.stored_transposed(model) == NAMES
