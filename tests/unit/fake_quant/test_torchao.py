"""torchao's own QAT as a fake quantizer: the same numbers as a model that torchao prepares itself."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from support import VOCABULARY, random_llama
from torch import nn
from torchao.quantization import quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.fake_quant.base import Layout
from qat.fake_quant.torchao import TorchAO
from qat.hosts import apply_state, hosts
from qat.prepare import prepare
from qat.restore import restore
from qat.schedule import PrecisionState
from qat.scheme import Scheme, preset

TOKENS = torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(3))


def scheme_of(name: str) -> Scheme:
    """A shipped scheme on the grid that torchao trains: float32 scales, asymmetric activations."""
    scheme = replace(preset(name), scale_format="fp32")
    for group in scheme.config_groups.values():
        if group.input_activations is not None:
            group.input_activations = group.input_activations.model_copy(update={"symmetric": False})
    return scheme


def own_config(name: str) -> QATConfig:
    """What a user of torchao writes for the same scheme."""
    bits = {"w4": torch.int4, "w3": torch.int3, "w2": torch.int2, "w8": torch.int8}[name[:2]]
    size: dict[str, Any] = {"group_size": 32} if "g32" in name else {"granularity": "per_channel"}
    weights = IntxFakeQuantizeConfig(bits, **size, is_symmetric=True)
    tokens = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    return QATConfig(activation_config=tokens if "a8" in name else None, weight_config=weights)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model(TOKENS, labels=TOKENS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", ["w4a16_channel", "w3a16_g32", "w2a16_channel", "w4a8_channel", "w8a8"])
def test_a_model_computes_and_learns_as_torchaos_own(name: str) -> None:
    ours = random_llama()
    theirs = deepcopy(ours)
    prepare(ours, scheme_of(name), TorchAO())
    quantize_(theirs, own_config(name), lambda module, where: isinstance(module, nn.Linear) and where != "lm_head")
    assert set(hosts(ours)) == set(hosts(theirs))
    assert torch.equal(ours(TOKENS).logits, theirs(TOKENS).logits)
    wanted, got = gradients(theirs), gradients(ours)
    assert wanted.keys() == got.keys()
    for where, gradient in wanted.items():
        assert torch.equal(got[where], gradient), where


@pytest.mark.parametrize("name", ["w4a16_channel", "w3a16_g32", "w2a16_channel", "w8a8"])
def test_what_torchao_computed_is_what_is_frozen(name: str) -> None:
    model, scheme = random_llama(), scheme_of(name)
    prepare(model, scheme, TorchAO())
    checkpoint = QuantizedCheckpoint.freeze(model, scheme)
    for where, host in hosts(model).items():
        assert torch.equal(checkpoint.weights[where].grid.value(), host.weight_fake_quantizer(host.weight)), where
    got, wanted = restore(checkpoint)(TOKENS).logits, model(TOKENS).logits
    if "a8" in name:  # an activation next to a rounding border may fall to the other code
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)
    else:
        assert torch.equal(got, wanted)


def test_scales_of_groups_as_they_are_stored() -> None:
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=2, symmetric=True)
    quantizer = TorchAO().build(args, Layout(1, 2), "fp32")
    weight = torch.tensor([[7.0, -1.0, 2.0, -15.0]])
    grid = quantizer.grid(weight)
    # torchao takes max(largest / 7, -smallest / 8), or the absolute largest over (7 + 8) / 2: here 7.5
    torch.testing.assert_close(grid.scale, torch.tensor([[7 / 7.5, 15 / 7.5]]))
    assert grid.codes.tolist() == [[7, -1, 1, -8]]
    assert grid.zero_point is None
    assert torch.equal(grid.value(), quantizer(weight))
    scale, _ = quantizer.scale_and_zero_point(weight.reshape(1, 2, 2))
    assert torch.equal(scale, grid.scale)


def test_a_schedule_changes_its_bits_and_turns_it_off() -> None:
    model = random_llama()
    wanted = model(TOKENS).logits
    prepare(model, scheme_of("w2a16_channel"), TorchAO())
    wide = random_llama()
    prepare(wide, scheme_of("w4a16_channel"), TorchAO())
    apply_state(model, PrecisionState(phase="a", weight_bits=4))
    assert torch.equal(model(TOKENS).logits, wide(TOKENS).logits)
    apply_state(model, PrecisionState(phase="a", weights=False))
    assert torch.equal(model(TOKENS).logits, wanted)


@pytest.mark.parametrize(
    ("changes", "layout", "form", "fix"),
    [
        ({}, Layout(8, 1), "bf16", "set scheme.scale_format=fp32"),
        ({"symmetric": False}, Layout(8, 1), "fp32", "set symmetric=true"),
        ({"strategy": "tensor"}, Layout(1, 1), "fp32", "set channel or group"),
        ({"strategy": "token", "dynamic": True}, Layout(1, 1, activation=True), "fp32", "symmetric=false"),
        ({"strategy": "tensor"}, Layout(1, 1, activation=True), "fp32", "pick another fake_quantizer"),
    ],
)
def test_what_torchao_cannot_train_is_refused_with_the_fix(
    changes: dict[str, Any], layout: Layout, form: str, fix: str
) -> None:
    args = QuantizationArgs(**({"num_bits": 8, "strategy": "channel", "symmetric": True} | changes))
    with pytest.raises(InputError, match=fix):
        TorchAO().build(args, layout, form)
