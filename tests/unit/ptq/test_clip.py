"""The clip search on outputs, against a search over the outputs themselves."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs

from qat import grid
from qat.errors import InputError
from qat.observers import GridSpec
from qat.observers.mse import MSE
from qat.ptq.clip import OutputMSE

CHANNEL = QuantizationArgs(num_bits=3, strategy="channel")
GROUP = QuantizationArgs(num_bits=3, strategy="group", group_size=4)
TENSOR = QuantizationArgs(num_bits=3, strategy="tensor")


def spec(symmetric: bool) -> GridSpec:
    return GridSpec(3, symmetric, grid.scale_format("bf16", 3, symmetric))


def weight_and_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator)
    return torch.randn(6, 8, generator=generator), torch.randn(50, 8, generator=generator) @ mix


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("args", [CHANNEL, GROUP])
def test_inputs_that_are_all_alike_give_the_least_squared_error(args: QuantizationArgs, symmetric: bool) -> None:
    groups = grid.to_groups(weight_and_inputs()[0], args)
    found = OutputMSE(torch.eye(8), candidates=30, smallest=0.2).range(groups, spec(symmetric))
    expected = MSE(candidates=30, smallest=0.2).range(groups, spec(symmetric))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_channel_gets_the_range_whose_output_is_nearest(symmetric: bool) -> None:
    weight, x = weight_and_inputs()
    groups = grid.to_groups(weight, CHANNEL)
    lower, upper = OutputMSE(x.T @ x, candidates=15).range(groups, spec(symmetric))
    for row in range(6):
        low, high = min(weight[row].min(), torch.tensor(0.0)), max(weight[row].max(), torch.tensor(0.0))
        if symmetric:
            high = weight[row].abs().max()
            low = -high
        errors = []
        for share in torch.linspace(1.0, 0.3, 15).tolist():
            ends = (torch.stack([[low, high][i] * share]).reshape(1, 1) for i in range(2))
            rounded = spec(symmetric).round_trip(weight[row].reshape(1, 1, 8), *ends).flatten()
            errors.append(((x @ rounded - x @ weight[row]).square().sum().item(), share))
        assert upper[row].item() == pytest.approx((high * min(errors)[1]).item(), rel=1e-6)
        assert lower[row].item() == pytest.approx((low * min(errors)[1]).item(), rel=1e-6)


def test_the_error_is_that_of_the_output() -> None:
    weight, x = weight_and_inputs()
    search, difference = OutputMSE(x.T @ x), torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    outputs = (x @ difference.T).square().sum(0)
    torch.testing.assert_close(search.error(grid.to_groups(difference, CHANNEL)).flatten(), outputs)
    torch.testing.assert_close(search.error(grid.to_groups(difference, TENSOR)), outputs.sum().reshape(1, 1))
    halves = torch.stack([(x[:, part] @ difference[:, part].T).square().sum(0) for part in (slice(4), slice(4, 8))], -1)
    torch.testing.assert_close(search.error(grid.to_groups(difference, GROUP)), halves)
    assert weight.shape == difference.shape


def test_a_tensor_has_one_range() -> None:
    weight, x = weight_and_inputs()
    lower, upper = OutputMSE(x.T @ x).range(grid.to_groups(weight, TENSOR), spec(True))
    assert upper.shape == (1, 1) and torch.equal(lower, -upper) and upper <= weight.abs().max()


@pytest.mark.parametrize("options", [{"candidates": 1}, {"smallest": 0.0}, {"smallest": 1.0}])
def test_a_search_over_nothing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="; "):
        OutputMSE(torch.eye(2), **options)
