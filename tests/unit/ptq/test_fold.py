"""A fold, by hand on small linears."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.hosts import quantizers
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.fold import Fold, apply_exact, floating
from qat.scheme import preset


@torch.no_grad()
def test_a_fold_into_a_norm_by_hand() -> None:
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 6)
    norm.weight.copy_(torch.arange(1.0, 9.0))
    norm.bias.copy_(torch.arange(8.0))
    weight = linear.weight.clone()
    scale = torch.tensor([1, 2, 4, 0.5, 1, 2, 4, 0.5])
    Fold({"l": linear}, norm, "n", torch.arange(8), 8).apply(scale)
    assert torch.equal(linear.weight, weight * scale)
    assert torch.equal(norm.weight, torch.tensor([1, 1, 0.75, 8, 5, 3, 1.75, 16]))
    assert torch.equal(norm.bias, torch.tensor([0, 0.5, 0.5, 6, 4, 2.5, 1.5, 14]))


@torch.no_grad()
def test_a_fold_into_a_norm_that_adds_one_by_hand() -> None:
    norm, linear = nn.RMSNorm(8), nn.Linear(8, 6)
    norm.weight.copy_(torch.arange(8.0))
    Fold({"l": linear}, norm, "n", torch.arange(8), 8, offset=1.0).apply(torch.full((8,), 2.0))
    assert torch.equal(norm.weight, torch.tensor([-0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3]))


@torch.no_grad()
def test_a_fold_into_the_last_rows_of_a_linear_by_hand() -> None:
    producer, linear = nn.Linear(3, 6), nn.Linear(8, 6)
    rows, bias, weight = producer.weight.clone(), producer.bias.clone(), linear.weight.clone()
    index = torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])  # two heads a group, two channels a head
    fold = Fold({"l": linear}, producer, "p", index, 4)
    scale = torch.tensor([2.0, 4.0, 0.5, 8.0])
    fold.apply(scale)
    assert torch.equal(linear.weight, weight * torch.tensor([2.0, 4, 2, 4, 0.5, 8, 0.5, 8]))
    assert torch.equal(producer.weight, rows / torch.tensor([1, 1, 2.0, 4, 0.5, 8]).unsqueeze(1))
    assert torch.equal(producer.bias, bias / torch.tensor([1, 1, 2.0, 4, 0.5, 8]))
    assert torch.equal(fold.shared(torch.arange(8.0), "amax"), torch.tensor([2.0, 3, 6, 7]))
    assert torch.equal(fold.shared(torch.arange(8.0), "mean"), torch.tensor([1.0, 2, 5, 6]))


def test_what_was_applied_is_put_back_bit_for_bit() -> None:
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 6)
    before = [parameter.clone() for parameter in (linear.weight, norm.weight, norm.bias)]
    fold = Fold({"l": linear}, norm, "n", torch.arange(8), 8)
    with fold.applied(torch.rand(8) + 0.1):
        assert not torch.equal(linear.weight, before[0])
    for value, parameter in zip(before, (linear.weight, norm.weight, norm.bias), strict=True):
        assert torch.equal(value, parameter)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_snapped_scale_gives_a_norm_that_16_bits_hold(offset: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, wanted = nn.RMSNorm(64), torch.rand(64) * 4 + 0.2
    norm.weight.copy_((torch.randn(64) * 0.2 + 1 - offset).bfloat16())
    norm.weight[3] = -offset  # a channel that is switched off
    fold = Fold({"l": nn.Linear(64, 6)}, norm, "n", torch.arange(64), 64, offset)
    scale = fold.snapped(wanted)
    torch.testing.assert_close(scale, wanted, rtol=0.02, atol=0)
    assert scale[3] == wanted[3]
    effective = norm.weight + offset
    fold.apply(scale)
    stored = norm.weight.to(dtype).float()
    torch.testing.assert_close((stored + offset) * scale, effective, rtol=1e-6, atol=1e-6)


def test_floating_turns_every_quantizer_off_and_puts_it_back(llama) -> None:
    model = llama()
    prepare(model, preset("w4a8_g32"), observer=MinMax())
    found = [*quantizers(model).values()]
    found[0].enabled.zero_()
    with floating(model):
        assert not any(quantizer.enabled for quantizer in found)
    assert [bool(quantizer.enabled) for quantizer in found] == [False] + [True] * (len(found) - 1)


@torch.no_grad()
def test_a_scale_that_changes_the_block_is_not_applied() -> None:
    torch.manual_seed(0)
    block, x = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6)), torch.randn(32, 8)
    wrong = Fold({"1": block[1]}, block[0], "0", torch.arange(8), 8, offset=1.0)
    right = Fold({"1": block[1]}, block[0], "0", torch.arange(8), 8)
    before, scale = block(x), torch.rand(8) + 0.5
    assert not apply_exact(wrong, scale, block, lambda: block(x), before)
    assert torch.equal(block(x), before)
    weight = block[1].weight.clone()
    assert apply_exact(right, scale, block, lambda: block(x), before)
    assert torch.equal(block[1].weight, weight * scale)
