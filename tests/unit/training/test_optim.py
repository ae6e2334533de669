"""Rates, parameter groups and freezing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qat.errors import InputError
from qat.training import optim
from qat.training.optim import OptimizerConfig, build_optimizer, parameter_groups, rate_factor


class Layer(nn.Module):
    """A weight, a bias, a learned range, and the weight again under a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.range = nn.Parameter(torch.ones(2, 1))
        self.tied = self.linear.weight


def test_cosine_after_a_linear_warmup() -> None:
    config = OptimizerConfig(warmup=0.2, schedule="cosine", final_lr_share=0.1)
    factors = [rate_factor(config, step, 10) for step in (0, 1, 2, 6, 10, 99)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_linear_and_constant() -> None:
    linear = OptimizerConfig(warmup=0.0, schedule="linear", final_lr_share=0.0)
    assert [rate_factor(linear, step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    constant = OptimizerConfig(warmup=0.5, schedule="constant", final_lr_share=0.0)
    assert [rate_factor(constant, step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_a_run_that_is_all_warmup_only_rises() -> None:
    config = OptimizerConfig(warmup=1.0)
    assert [rate_factor(config, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_groups_have_their_own_rates_and_only_matrices_decay() -> None:
    layer = Layer()
    config = OptimizerConfig(lr=1.0, range_lr=2.0, weight_decay=0.5)
    groups = {group["name"]: group for group in parameter_groups(layer, [layer.range], config)}
    assert {name: (g["lr"], g["weight_decay"], g["kind"]) for name, g in groups.items()} == {
        "weights": (1.0, 0.5, "weights"),
        "weights_no_decay": (1.0, 0.0, "weights"),
        "ranges": (2.0, 0.0, "ranges"),
    }
    assert [id(p) for p in groups["weights"]["params"]] == [id(layer.linear.weight)]  # the tied name adds none
    assert [id(p) for p in groups["weights_no_decay"]["params"]] == [id(layer.linear.bias)]
    assert [id(p) for p in groups["ranges"]["params"]] == [id(layer.range)]


def test_parameters_that_need_no_gradient_are_in_no_group() -> None:
    layer = Layer()
    layer.range.requires_grad_(False)
    assert "ranges" not in {group["name"] for group in parameter_groups(layer, [layer.range], OptimizerConfig())}


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), [], OptimizerConfig(), fused=False)


@pytest.mark.parametrize("fused", [True, False])
def test_one_step_is_adamw_worked_out_by_hand(fused: bool) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, betas=(0.9, 0.95), eps=1e-8)
    optimizer = build_optimizer(layer, [], config, fused=fused)
    layer.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    # Decay 2 * (1 - 0.1 * 0.5), then the first step of Adam, whose bias-corrected moments are 3 and 9.
    assert layer.weight.item() == pytest.approx(2 * 0.95 - 0.1 * 3 / (math.sqrt(9) + 1e-8))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [optim.WEIGHTS, optim.RANGES])
def test_a_frozen_group_keeps_its_values_and_its_moments(kind: str, fused: bool) -> None:
    layer = Layer()
    optimizer = build_optimizer(layer, [layer.range], OptimizerConfig(weight_decay=0.5), fused=fused)

    def step() -> None:
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)

    step()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    moments = {p: {k: v.clone() for k, v in state.items()} for p, state in optimizer.state.items()}
    step()
    optim.freeze(optim.parameters(optimizer, kind))
    optimizer.step()
    for name, parameter in layer.named_parameters():
        frozen = (name == "range") == (kind == optim.RANGES)
        assert torch.equal(parameter, before[name]) == frozen
        state = optimizer.state[parameter]
        assert all(torch.equal(moments[parameter][key], state[key]) for key in state) == frozen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, r"optimizer\.lr=-1\.0"),
        ({"betas": (0.9, 1.0)}, r"optimizer\.betas=\[0\.9, 1\.0\]"),
        ({"eps": 0.0}, r"optimizer\.eps=0\.0"),
        ({"warmup": 2.0}, r"optimizer\.warmup=2\.0"),
        ({"schedule": "step"}, r"optimizer\.schedule='step'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**options)
