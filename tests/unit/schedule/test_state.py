"""PrecisionState: what it refuses, and which blocks a share of blocks means."""

from __future__ import annotations

import dataclasses

import pytest

from qat.errors import InputError
from qat.schedule import PrecisionState


def test_the_default_is_the_scheme_fully_on() -> None:
    state = PrecisionState("main")
    assert dataclasses.asdict(state) == {
        "phase": "main",
        "weight_bits": None,
        "weights": True,
        "activations": True,
        "mix": 1.0,
        "blocks": 1.0,
        "block_order": "front_to_back",
        "observe": False,
        "freeze_weights": False,
        "freeze_ranges": False,
        "lr_scale": 1.0,
        "reconstruct": None,
        "dampening": 0.0,
    }


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PrecisionState("main").mix = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 1}, "phase 'main': weight_bits=1 must be an integer from 2 to 8"),
        ({"weight_bits": 9}, "weight_bits=9 must be an integer from 2 to 8"),
        ({"weight_bits": 4.0}, "weight_bits=4.0 must be an integer"),
        ({"mix": 1.1}, "mix=1.1 must be a share from 0 to 1"),
        ({"mix": float("nan")}, "mix=nan must be a share"),
        ({"blocks": -0.1}, "blocks=-0.1 must be a share"),
        ({"lr_scale": -1.0}, "lr_scale=-1.0 must be 0 or more"),
        ({"lr_scale": float("inf")}, "lr_scale=inf must be 0 or more"),
        ({"block_order": "sideways"}, "block_order=sideways must be front_to_back, back_to_front or a list"),
        ({"block_order": ()}, r"block_order=\[\] must be"),
        ({"block_order": (0, 0)}, r"block_order=\[0, 0\] must be"),
        ({"block_order": (1, -1)}, r"block_order=\[1, -1\] must be"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrecisionState("main", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "quantizes"),
    [
        ({}, True),
        ({"weights": False}, True),
        ({"activations": False}, True),
        ({"weights": False, "activations": False}, False),
        ({"mix": 0.0}, False),
        ({"mix": 0.01}, True),
        ({"blocks": 0.0}, False),
    ],
)
def test_quantizes(options: dict[str, bool | float], quantizes: bool) -> None:
    assert PrecisionState("main", **options).quantizes is quantizes  # type: ignore[arg-type]


# Of 4 blocks ceil(4 * share) are on: 0.25 is exactly one block, and anything above it begins the second.
@pytest.mark.parametrize(
    ("share", "blocks"),
    [
        (0.0, ()),
        (0.01, (0,)),
        (0.25, (0,)),
        (0.26, (0, 1)),
        (0.5, (0, 1)),
        (0.99, (0, 1, 2, 3)),
        (1.0, (0, 1, 2, 3)),
    ],
)
def test_quantized_blocks_from_the_front(share: float, blocks: tuple[int, ...]) -> None:
    assert PrecisionState("main", blocks=share).quantized_blocks(4) == blocks


def test_quantized_blocks_in_other_orders() -> None:
    back = PrecisionState("main", blocks=0.5, block_order="back_to_front")
    assert back.quantized_blocks(4) == (3, 2)
    given = PrecisionState("main", blocks=0.5, block_order=(2, 0, 3, 1))
    assert given.quantized_blocks(4) == (2, 0)


def test_a_share_that_is_a_block_up_to_rounding_errors_does_not_begin_the_next() -> None:
    assert 0.07 * 100 > 7  # the rounding error that a plain ceil would turn into an eighth block
    assert len(PrecisionState("main", blocks=0.07).quantized_blocks(100)) == 7


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 2, 4), (0, 1, 2, 3, 4)])
def test_an_explicit_order_must_name_each_block_once(order: tuple[int, ...]) -> None:
    state = PrecisionState("layers", blocks=0.5, block_order=order)
    with pytest.raises(InputError, match=r"phase 'layers': order=.* each of the model's 4 blocks \(0 to 3\) once"):
        state.quantized_blocks(4)
