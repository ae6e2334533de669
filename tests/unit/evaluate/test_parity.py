from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from qat.evaluate.parity import max_logit_difference, parity
from qat.grid import Grid
from qat.quantized import KVScales, QuantizedWeight, ReadModule


def grid(**changes) -> Grid:
    parts = {
        "codes": torch.tensor([[1, -2, 3], [4, 5, -6]], dtype=torch.int8),
        "scale": torch.tensor([[0.5], [0.25]], dtype=torch.bfloat16),
        "zero_point": torch.tensor([[1], [-1]], dtype=torch.int8),
    }
    return Grid(**{**parts, **changes})


def modules(**grids: Grid) -> dict[str, ReadModule]:
    return {name: ReadModule(value) for name, value in grids.items()}


def checkpoint(**grids: Grid):
    weights = {name: QuantizedWeight(value, None, "Linear") for name, value in grids.items()}
    return SimpleNamespace(weights=weights, kv_scales={})


def test_equal_grids_are_exact():
    result = parity(checkpoint(a=grid(), b=grid(zero_point=None)), modules(a=grid(), b=grid(zero_point=None)))
    assert result.exact
    assert result.tensors == 2


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"codes": torch.tensor([[1, -2, 3], [4, 0, 0]], dtype=torch.int8)}, (2, 0, 0)),
        ({"codes": torch.zeros(3, 2, dtype=torch.int8)}, (6, 0, 0)),
        ({"zero_point": torch.tensor([[1], [0]], dtype=torch.int8)}, (0, 1, 0)),
        ({"zero_point": None}, (0, 2, 0)),
        ({"scale": torch.tensor([[0.5], [0.251]], dtype=torch.bfloat16)}, (0, 0, 1)),
        ({"scale": torch.tensor([[0.5], [0.25]])}, (0, 0, 2)),  # the same numbers in another dtype
        ({"scale": torch.tensor([[0.5], [-0.25]], dtype=torch.bfloat16)}, (0, 0, 1)),
    ],
)
def test_every_difference_is_counted(changes, counts):
    result = parity(checkpoint(a=grid()), modules(a=grid(**changes)))
    assert (result.mismatched_codes, result.mismatched_zero_points, result.mismatched_scales) == counts
    assert not result.exact


def test_scales_are_compared_in_their_bits():
    scale = torch.tensor([[0.0], [math.nan]])
    assert parity(checkpoint(a=grid(scale=scale)), modules(a=grid(scale=scale.clone()))).exact
    negative = parity(checkpoint(a=grid(scale=scale)), modules(a=grid(scale=torch.tensor([[-0.0], [math.nan]]))))
    assert negative.mismatched_scales == 1


@pytest.mark.parametrize(
    ("scale", "zero_point", "counts"),
    [
        (torch.tensor([0.5]), torch.tensor([3], dtype=torch.int8), (0, 0)),
        (torch.tensor([0.25]), torch.tensor([3], dtype=torch.int8), (0, 1)),
        (torch.tensor([0.5]), torch.tensor([4], dtype=torch.int8), (1, 0)),
        (torch.tensor([0.5]), None, (1, 0)),
        (None, None, (1, 1)),
    ],
)
def test_static_activations_are_compared_where_the_format_holds_them(scale, zero_point, counts):
    wanted = QuantizedWeight(grid(), None, "Linear", torch.tensor([0.5]), torch.tensor([3], dtype=torch.int8))
    frozen, read = checkpoint(), {"a": ReadModule(grid(), scale, zero_point)}
    frozen.weights["a"] = wanted
    result = parity(frozen, read)
    assert (result.mismatched_zero_points, result.mismatched_scales) == counts
    assert result.exact == (counts == (0, 0))
    assert parity(frozen, read, activations=False).exact


def test_missing_and_unexpected_modules_are_mismatches():
    result = parity(checkpoint(a=grid(), b=grid()), modules(b=grid(), c=grid(zero_point=None)))
    assert result.missing == ("a",)
    assert result.unexpected == ("c",)
    assert (result.mismatched_codes, result.mismatched_zero_points, result.mismatched_scales) == (12, 2, 4)


def test_max_logit_difference():
    tokens = torch.tensor([[0, 1]])
    logits = torch.zeros(1, 2, 3)
    other = logits.clone()
    other[0, 1, 2] = -0.5
    assert max_logit_difference(lambda _: logits, lambda _: other, tokens) == 0.5
    assert max_logit_difference(lambda _: logits, lambda _: logits, tokens) == 0.0
    other[0, 0, 0] = math.nan
    assert max_logit_difference(lambda _: logits, lambda _: other, tokens) == math.inf


def kv(key: float = 0.5, value: float = 0.25) -> KVScales:
    return KVScales(torch.tensor([key]), torch.tensor([value]))


@pytest.mark.parametrize(
    ("read", "scales", "missing", "unexpected"),
    [
        ({"attn": kv()}, 0, (), ()),
        ({"attn": kv(value=0.2500001)}, 1, (), ()),
        ({}, 2, ("attn",), ()),
        ({"attn": kv(), "other": kv()}, 2, (), ("other",)),
    ],
)
def test_scales_of_keys_and_values_are_compared(read, scales, missing, unexpected):
    made = checkpoint(a=grid())
    made.kv_scales = {"attn": kv()}
    found = parity(made, modules(a=grid()), caches=read)
    assert (found.mismatched_scales, found.missing, found.unexpected) == (scales, missing, unexpected)
    assert found.exact == (scales == 0)
    assert parity(made, modules(a=grid()), activations=False).exact, "a format of weights only has none"
