"""The dampening gradient by hand, and against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qat.hosts import hosts
from qat.prepare import prepare
from qat.schedule import PrecisionSchedule
from qat.schedule.phases.dampen import Dampen
from qat.scheme import preset
from qat.training.dampening import dampen
from qat.training.losses import CrossEntropy
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig

Tiny = Any


def test_by_hand() -> None:
    """2 bits have the codes -2 to 1; with a scale of 1 the grid is -2, -1, 0, 1."""
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    prepare(model, preset("w2a16_channel"))
    host = model[0]
    values = [0.25, -0.25, 0.75, 1.25, 3.0, -1.75, -2.25, -9.0]
    with torch.no_grad():
        host.weight.copy_(torch.tensor([values]))
        host.weight_fake_quantizer.limit.fill_(1.0)
    host.weight.grad = torch.ones_like(host.weight)
    dampen(model, strength=0.5)
    # w - q(w) inside; at 1.25, 3, -2.25 and -9 the weight is clipped to the end that it is rounded to
    assert host.weight.grad.tolist() == [[1.25, 0.75, 0.75, 1.0, 1.0, 1.25, 1.0, 1.0]]


@pytest.mark.parametrize("scheme", ["w4a16_g32", "w2a16_g32_asym"])
def test_it_is_the_gradient_of_the_paper(tiny: Tiny, scheme: str) -> None:
    model = tiny.llama()
    prepare(model, preset(scheme))
    for host in hosts(model).values():
        host.weight.grad = torch.zeros_like(host.weight)
    dampen(model, strength=0.3)
    for name, host in hosts(model).items():
        quantizer = host.weight_fake_quantizer
        weight = host.weight.detach().clone().requires_grad_()
        on_grid = quantizer.grid(weight)
        groups = weight.view(weight.shape[0], -1, 32)
        scale = on_grid.scale.float()[..., None]
        zero = 0 if on_grid.zero_point is None else on_grid.zero_point.float()[..., None]
        ends = (quantizer.qmin - zero) * scale, (quantizer.qmax - zero) * scale
        clipped = groups.clamp(*ends).reshape(weight.shape)
        (0.3 * (clipped - on_grid.value()).square().sum()).backward()
        torch.testing.assert_close(host.weight.grad, weight.grad, atol=1e-7, rtol=1e-4, msg=name)


def test_what_is_not_trained_and_what_is_tied(tiny: Tiny) -> None:
    model = tiny.llama()
    prepare(model, preset("w4a16_channel"))
    first, second = list(hosts(model).values())[:2]
    first.weight.grad = torch.zeros_like(first.weight)
    dampen(model, strength=1.0)
    assert second.weight.grad is None
    once = first.weight.grad.clone()
    second.weight, second.weight_fake_quantizer = first.weight, first.weight_fake_quantizer
    first.weight.grad = torch.zeros_like(first.weight)
    dampen(model, strength=1.0)
    assert torch.equal(first.weight.grad, once)


def test_a_dampened_model_comes_to_lie_on_its_grid(tiny: Tiny, tmp_path: Any) -> None:
    distances = []
    for strength in (1e-12, 1e4):
        model = tiny.llama(0.0)
        prepare(model, preset("w4a16_channel"))
        schedule = PrecisionSchedule({"end": Dampen(strength=strength)}, 20)
        config = OptimizerConfig(range_lr=0.0, warmup=0.0)
        module = QATModule(model, CrossEntropy(), config, "causal_lm", 0, schedule)
        tiny.run(module, tmp_path / str(strength), val_every=0)
        errors = [
            (h.weight - h.weight_fake_quantizer.grid(h.weight).value()).square().mean() for h in hosts(model).values()
        ]
        distances.append(torch.stack(errors).mean().item())
    assert distances[1] < 0.7 * distances[0]
