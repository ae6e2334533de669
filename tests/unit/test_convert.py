"""Conversion to torchao's own tensors keeps codes and learned scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor, quantize_
from torchao.quantization.qat import FakeQuantizedLinear
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

from qat.errors import InputError
from qat.observers.minmax import MinMax
from qat.prepare import LearnedQATConfig, prepare
from qat.ptq.calibrate import calibrate
from qat.scheme import Scheme, preset

WEIGHT_ONLY = ["w4a16_g32", "w4a16_channel", "w8a16", "w3a16_g32", "w2a16_g32", "w2a16_g32_asym"]


def trained(scheme: str) -> nn.Sequential:
    """A prepared layer whose ranges were moved as training would."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32))
    quantize_(model, LearnedQATConfig(scheme, step="prepare"))
    with torch.no_grad():
        for parameter in model[0].weight_fake_quantizer.ranges():
            parameter.mul_(0.8)
    return model


@pytest.mark.parametrize("scheme", WEIGHT_ONLY)
def test_weight_only_is_bitwise(scheme: str) -> None:
    model, x = trained(scheme), torch.randn(5, 64)
    expected, grid = model(x), model[0].weight_fake_quantizer.grid(model[0].weight)
    quantize_(model, LearnedQATConfig(scheme, step="convert"))
    assert type(model[0]) is nn.Linear and isinstance(model[0].weight, IntxUnpackedToInt8Tensor)
    assert torch.equal(model[0].weight.qdata, grid.codes)
    assert torch.equal(model[0].weight.scale, grid.scale.float())
    assert torch.equal(model[0].weight.dequantize(), grid.value())
    assert torch.equal(model(x), expected)


def test_w8a8_becomes_an_integer_product() -> None:
    model, x = trained("w8a8"), torch.randn(5, 64)
    expected, grid = model(x), model[0].weight_fake_quantizer.grid(model[0].weight)
    quantize_(model, LearnedQATConfig("w8a8", step="convert"))
    assert isinstance(model[0].weight, Int8Tensor)
    assert torch.equal(model[0].weight.qdata, grid.codes)
    assert torch.equal(model[0].weight.scale, grid.scale.float())
    # torchao multiplies by 1 / scale where we divide, so a token may differ by one code at a rounding border.
    step = x.abs().amax(-1, keepdim=True) / 127.5
    assert ((model(x) - expected).abs() <= step * grid.value().abs().amax() + 1e-5).all()


@pytest.mark.parametrize("scheme", ["w4a8_g32", "w4a8_channel"])
def test_symmetric_per_token_int8_survives(scheme: str) -> None:
    model, x = trained(scheme), torch.randn(5, 64)
    expected = model(x)
    quantize_(model, LearnedQATConfig(scheme, step="convert"))
    assert isinstance(model[0], FakeQuantizedLinear) and isinstance(model[0].weight, IntxUnpackedToInt8Tensor)
    assert torch.equal(model(x), expected)


def test_static_activations_survive(llama, tokens: torch.Tensor) -> None:
    model = llama()
    prepare(model, preset("w8a8_static"))
    calibrate(model, [{"input_ids": tokens}], MinMax())
    expected = model(tokens).logits
    quantize_(model, LearnedQATConfig("w8a8_static", step="convert"))
    assert torch.equal(model(tokens).logits, expected)


def test_embeddings_convert_too() -> None:
    scheme = Scheme({"a": {"targets": ["Embedding"], "weights": {"num_bits": 4, "strategy": "channel"}}})
    model = nn.Sequential(nn.Embedding(10, 16))
    prepare(model, scheme)
    expected = model(torch.arange(10))
    quantize_(model, LearnedQATConfig(scheme, step="convert"), filter_fn=lambda m, _: isinstance(m, nn.Embedding))
    assert isinstance(model[0].weight, IntxUnpackedToInt8Tensor)
    assert torch.equal(model(torch.arange(10)), expected)


def test_an_unfinished_schedule_is_refused() -> None:
    model = trained("w4a16_g32")
    model[0].weight_fake_quantizer.set_precision(6, enabled=True, mix=1.0, observe=False)
    with pytest.raises(InputError, match="is at 6 bits .* promises 4 bits"):
        quantize_(model, LearnedQATConfig("w4a16_g32", step="convert"))


def test_unprepared_modules_are_left() -> None:
    model = nn.Sequential(nn.Linear(32, 8))
    before = model[0]
    quantize_(model, LearnedQATConfig("w4a16_g32", step="convert"))
    assert model[0] is before


def test_a_static_activation_without_a_range_is_refused() -> None:
    model = nn.Sequential(nn.Linear(64, 32))
    quantize_(model, LearnedQATConfig("w8a8_static", step="prepare"))
    with pytest.raises(InputError, match="a static activation has no range yet"):
        quantize_(model, LearnedQATConfig("w8a8_static", step="convert"))
