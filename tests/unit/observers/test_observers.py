"""Ranges by hand and by brute force."""

from __future__ import annotations

import pytest
import torch

from qat import grid
from qat.errors import InputError
from qat.observers import GridSpec
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.observers.percentile import Percentile


def spec(bits: int = 4, symmetric: bool = True) -> GridSpec:
    return GridSpec(bits, symmetric, grid.scale_format("fp32", bits, symmetric))


def test_minmax_by_hand() -> None:
    groups = torch.tensor([[[-3.0, 1.0], [0.5, 0.25]]])
    assert [end.tolist() for end in MinMax().range(groups, spec())] == [[[-3.0, -0.5]], [[3.0, 0.5]]]
    assert [end.tolist() for end in MinMax().range(groups, spec(symmetric=False))] == [[[-3.0, 0.0]], [[1.0, 0.5]]]


def test_minmax_joins_batches_by_the_widest() -> None:
    ends = torch.tensor([[[-1.0]], [[-4.0]], [[-2.0]]])
    assert MinMax().combine(ends).tolist() == [[-4.0]]
    assert MinMax().combine(-ends).tolist() == [[4.0]]
    assert MSE().combine(ends).item() == pytest.approx(-7 / 3)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_is_the_best_candidate_by_brute_force(bits: int, symmetric: bool) -> None:
    torch.manual_seed(bits)
    groups = torch.randn(3, 2, 64)
    observer = MSE(candidates=50, smallest=0.2)
    lower, upper = observer.range(groups, spec(bits, symmetric))
    found = (spec(bits, symmetric).round_trip(groups, lower, upper) - groups).square().sum(-1)
    low, high = MinMax().range(groups, spec(bits, symmetric))
    errors = torch.stack(
        [
            (spec(bits, symmetric).round_trip(groups, low * share, high * share) - groups).square().sum(-1)
            for share in torch.linspace(1.0, 0.2, 50).tolist()
        ]
    )
    assert torch.equal(found, errors.amin(0))
    assert (found < errors[0]).any(), "clipping must pay somewhere on gaussian weights at 4 bits or fewer"


def test_percentile_by_hand() -> None:
    groups = torch.tensor([[[-10.0, *range(1, 100)]]])
    _, upper = Percentile(share=0.9).range(groups, spec())
    assert upper.item() == 89.0  # the 90th of the magnitudes 1, ..., 9, 10, 10, 11, ..., 99
    lower, upper = Percentile(share=0.9).range(groups, spec(symmetric=False))
    assert (lower.item(), upper.item()) == (0.0, 94.0)  # 5 % cut at both ends of -10, 1, ..., 99


def test_percentile_of_everything_is_minmax() -> None:
    groups = torch.randn(2, 3, 17)
    for symmetric in (True, False):
        whole = Percentile(share=1.0).range(groups, spec(symmetric=symmetric))
        assert all(map(torch.equal, whole, MinMax().range(groups, spec(symmetric=symmetric))))


def test_bad_options_are_refused() -> None:
    for make in (lambda: MSE(candidates=1), lambda: MSE(smallest=1.0), lambda: Percentile(share=0.4)):
        with pytest.raises(InputError, match="observer"):
            make()
