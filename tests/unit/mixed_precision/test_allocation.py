from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import pytest
import yaml
from compressed_tensors.quantization import QuantizationScheme
from support import random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.hosts import hosts
from qat.mixed_precision.allocation import (
    Budget,
    allocate,
    frontier,
    mixes,
    scheme_of,
    uniform,
)
from qat.mixed_precision.sensitivity import Sensitivity
from qat.models.outputs import head_names
from qat.prepare import prepare
from qat.scheme import Scheme, match

Made = Callable[..., Sensitivity]
DAMAGES = [[0.9, 0.5, 0.1], [0.4, 0.3, 0.0], [0.8, 0.1, 0.05], [0.2, 0.19, 0.01]]
WEIGHTS = [100, 300, 200, 50]
WIDTHS = (2, 3, 4)


def best(found: Sensitivity, bits: float) -> float:
    """The least predicted damage of an average of ``bits``, by trying everything."""
    return min(
        sum(unit.damage[width] for unit, width in zip(found.units, choice, strict=True))
        for choice in product(found.widths, repeat=len(found.units))
        if sum(unit.weights * width for unit, width in zip(found.units, choice, strict=True))
        <= bits * found.weights + 1e-6
    )


@pytest.mark.parametrize("bits", [2.0, 2.3, 2.5, 3.0, 3.5, 3.99, 4.0, 7.0])
def test_the_best_under_a_budget_in_bits(made: Made, bits: float) -> None:
    found = made(DAMAGES, WEIGHTS, WIDTHS)
    allocation = allocate(found, Budget(bits=bits))
    assert allocation.bits <= bits
    assert allocation.predicted == pytest.approx(best(found, bits))


def test_the_numbers_of_an_allocation_by_hand(made: Made) -> None:
    """One layer of 100 weights at 4 bits and one of 300 at 2: 1000 bits, 125 bytes and twice 16 of scales."""
    found = made([[0.4, 0.1], [0.3, 0.2]], [100, 300]).model_copy(update={"ground": 0.5})
    allocation = allocate(found, Budget(bits=2.5))
    assert allocation.widths == {"layers.0": 4, "layers.1": 2}
    assert allocation.bits == 2.5
    assert allocation.bits_with_scales == 8 * (50 + 75 + 32) / 400
    assert allocation.bytes == 1000 + 50 + 75 + 32
    assert allocation.predicted == pytest.approx(0.5 + 0.1 + 0.3)


def test_a_budget_in_bytes_is_of_the_whole_checkpoint(made: Made) -> None:
    found = made([[0.4, 0.1], [0.3, 0.2]], [100, 300])
    narrow = 1000 + 25 + 75 + 32
    assert allocate(found, Budget(bytes=narrow)).widths == {"layers.0": 2, "layers.1": 2}
    assert allocate(found, Budget(bytes=narrow + 24)).widths == {"layers.0": 2, "layers.1": 2}
    assert allocate(found, Budget(bytes=narrow + 25)).widths == {"layers.0": 4, "layers.1": 2}


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(bits=1.9), "budget=1.9 cannot be met: .* needs 2 bits a weight"),
        (Budget(bytes=1131), "budget_bytes=1131 cannot be met: .* needs 1132 bytes"),
    ],
)
def test_a_budget_that_cannot_be_met_says_what_is_needed(made: Made, budget: Budget, said: str) -> None:
    with pytest.raises(InputError, match=said):
        allocate(made([[0.4, 0.1], [0.3, 0.2]], [100, 300]), budget)


def test_the_frontier_falls_and_meets_the_uniform_ends(made: Made) -> None:
    found = made(DAMAGES, WEIGHTS, WIDTHS)
    advanced: list[None] = []
    points = frontier(found, lambda: advanced.append(None))
    assert len(advanced) == 61
    assert all(earlier.predicted > later.predicted for earlier, later in pairwise(points))
    assert all(point.predicted == pytest.approx(best(found, point.bits)) for point in points)
    narrow, *_, wide = uniform(found)
    assert points[0].widths == narrow.widths
    assert points[-1].widths == wide.widths
    for row in uniform(found):
        assert allocate(found, Budget(bits=row.bits)).predicted <= row.predicted


def test_mixes_without_measuring_spend_the_budget_in_their_order(made: Made) -> None:
    found = made([[0.4, 0.1]] * 4, [100] * 4)
    found_mixes = {row.name: row for row in mixes(found, Budget(bits=3.0))}
    assert {*found_mixes} == {f"{name}_4_else_2" for name in ("first", "last", "random0", "random1", "random2")}
    assert [*found_mixes["first_4_else_2"].widths.values()] == [4, 4, 2, 2]
    assert [*found_mixes["last_4_else_2"].widths.values()] == [2, 2, 4, 4]
    assert {row.bits for row in found_mixes.values()} == {3.0}
    assert not [*mixes(found, Budget(bits=4.0))], "there is nothing wider to mix in"


def test_the_scheme_keeps_everything_but_the_bits() -> None:
    """A fallback for a layer that the group size does not divide, activations, an ignored layer."""
    inputs = {"num_bits": 8, "strategy": "token", "dynamic": True}
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32}
    groups = {
        "mlp": {"targets": ["re:.*mlp.*"], "weights": weights},
        "rest": {"targets": ["Linear"], "weights": weights, "input_activations": inputs},
    }
    base = Scheme(groups, ["model.layers.0.self_attn.v_proj"], "fp16", "channel")
    model = random_llama(intermediate_size=72)
    before = match(base, model, head_names(model))
    bits = {name: 2 + index % 3 for index, name in enumerate(before)}
    mixed = scheme_of(base, before, bits)
    after = match(mixed, model, head_names(model))
    assert {name: group.weights.num_bits for name, group in after.items()} == bits
    for name, group in after.items():
        assert grid_of(group) == grid_of(before[name]), name
    assert (mixed.ignore, mixed.scale_format, mixed.group_fallback) == (base.ignore, "fp16", "channel")
    assert next(iter(mixed.config_groups)) == "w2"
    assert Scheme(**yaml.safe_load(yaml.safe_dump(mixed.to_dict()))) == mixed


def grid_of(group: QuantizationScheme) -> tuple[object, object]:
    """All of a group but its targets and its bits."""
    return group.weights.model_copy(update={"num_bits": 4}), group.input_activations


def test_tied_weights_stay_tied_in_the_scheme() -> None:
    weights = {"num_bits": 4, "strategy": "channel"}
    base = Scheme({"all": {"targets": ["Linear", "Embedding"], "weights": weights}})
    model = random_llama()
    matched = match(base, model, head_names(model))
    mixed = scheme_of(base, matched, {name: 8 if name == "model.embed_tokens" else 3 for name in matched})
    prepare(model, mixed)
    found = hosts(model)
    assert found["lm_head"].weight_fake_quantizer is found["model.embed_tokens"].weight_fake_quantizer
    checkpoint = QuantizedCheckpoint.freeze(model, mixed)
    assert checkpoint.weights["model.embed_tokens"].args.num_bits == 8
    assert checkpoint.weights["model.layers.0.mlp.up_proj"].args.num_bits == 3
