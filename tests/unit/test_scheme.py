"""Parsing of schemes and matching of their groups to modules."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from qat.errors import InputError
from qat.scheme import Scheme, match, preset


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(24, 16)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 10)


def group(*targets: str, **weights: Any) -> dict[str, Any]:
    return {"targets": list(targets), "weights": {"num_bits": 4, "strategy": "channel", **weights}}


HEADS = {"head"}


def test_class_names_leave_the_head() -> None:
    matched = match(Scheme({"a": group("Linear")}), Model(), HEADS)
    assert list(matched) == ["layers.0.up", "layers.0.down", "layers.1.up", "layers.1.down"]


def test_the_most_specific_target_wins() -> None:
    scheme = Scheme(
        {
            "rest": group("Linear"),
            "late": group("re:.*1\\.(up|down)", num_bits=8),
            "one": group("layers.1.down", num_bits=2),
            "head": group("head", num_bits=8),
        }
    )
    bits = {name: found.weights.num_bits for name, found in match(scheme, Model(), HEADS).items()}
    assert bits == {"layers.0.up": 4, "layers.0.down": 4, "layers.1.up": 8, "layers.1.down": 2, "head": 8}


def test_ignore_takes_names_classes_and_patterns() -> None:
    scheme = Scheme({"a": group("Linear", "Embedding")}, ignore=["re:.*down", "layers.0.up", "Embedding"])
    assert list(match(scheme, Model(), HEADS)) == ["layers.1.up"]


@pytest.mark.parametrize(
    ("groups", "ignore", "message"),
    [
        ({"a": group("Linear", "layers.0.upp")}, [], "'layers.0.upp' of the scheme matches no.*did you mean"),
        ({"a": group("Linear")}, ["re:.*gate"], "'re:.\\*gate' of the scheme matches no"),
        ({"a": group("Linear")}, ["Linear"], "nothing to quantize"),
        ({"a": group("Conv2d")}, [], "'Conv2d' of the scheme matches no"),
        ({"a": group("Linear", strategy="group", group_size=16)}, [], "does not divide the 24 inputs of layers.0.down"),
    ],
)
def test_what_matches_nothing_is_an_error(groups: dict[str, Any], ignore: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match(Scheme(groups, ignore=ignore), Model(), HEADS)


def test_group_fallback_gives_one_scale_a_channel() -> None:
    scheme = Scheme({"a": group("Linear", strategy="group", group_size=16)}, group_fallback="channel")
    matched = match(scheme, Model(), HEADS)
    assert matched["layers.0.up"].weights.strategy == "group"
    assert matched["layers.0.down"].weights.strategy == "channel"
    assert matched["layers.0.down"].weights.group_size is None


def test_embeddings_take_no_input_activations() -> None:
    both = group("Embedding") | {"input_activations": {"num_bits": 8, "strategy": "token", "dynamic": True}}
    with pytest.raises(InputError, match="embed is an embedding"):
        match(Scheme({"a": both}), Model(), HEADS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"num_bits": 1}, "num_bits is 1; allowed are 2 to 8"),
        ({"num_bits": 9}, "num_bits is 9; allowed are 2 to 8"),
        ({"type": "float"}, "only int grids"),
        ({"strategy": "token", "dynamic": True}, "allowed are tensor, channel, group"),
        ({"strategy": "block", "block_structure": [2, 2]}, "allowed are tensor, channel, group"),
        ({"strategy": "group"}, "group_size"),
        ({"bits": 4}, "Extra inputs are not permitted"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scheme({"a": group("Linear", **weights)})


def test_bad_groups_are_refused() -> None:
    with pytest.raises(InputError, match="config_groups is empty"):
        Scheme({})
    with pytest.raises(InputError, match="has no weights"):
        Scheme({"a": {"targets": ["Linear"]}})
    with pytest.raises(InputError, match="scale_format 'bf61'.*did you mean 'bf16'"):
        Scheme({"a": group("Linear")}, scale_format="bf61")


def test_round_trip_through_plain_types() -> None:
    scheme = preset("w4a8_g32")
    assert Scheme(**scheme.to_dict()) == scheme


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'w4a16_g32'"):
        preset("w4a16_g23")


def test_static_activations_are_noticed() -> None:
    assert preset("w8a8_static").has_static_activations
    assert not preset("w8a8").has_static_activations
