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


class Untidy(nn.Module):
    """A head and an embedding by other names."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(10, 16)
        self.up = nn.Linear(16, 32)
        self.score = nn.Linear(16, 10)


@pytest.mark.parametrize("name", ["w4a16_g32_head8", "w4a16_g32_head4"])
def test_head_is_the_output_head_whatever_its_name(name: str) -> None:
    scheme = preset(name)
    groups = {**scheme.config_groups}
    scheme = Scheme(groups, group_fallback="channel")
    bits = {module: found.weights.num_bits for module, found in match(scheme, Untidy(), {"score"}).items()}
    ends = int(name[-1])
    assert bits == {"wte": ends, "up": 4, "score": ends}
    with pytest.raises(InputError, match="target 'head' of the scheme matches no Linear or Embedding of Untidy"):
        match(scheme, Untidy(), set())


def test_the_head_can_be_ignored_and_comes_before_patterns() -> None:
    scheme = Scheme({"a": group("re:.*"), "b": group("head", num_bits=8)})
    assert match(scheme, Untidy(), {"score"})["score"].weights.num_bits == 8
    assert "score" not in match(Scheme({"a": group("re:.*")}, ignore=["head"]), Untidy(), {"score"})


def test_a_narrow_range_is_of_symmetric_weights() -> None:
    assert preset("w2a16_g32_ternary").narrow_range and not preset("w2a16_g32").narrow_range
    with pytest.raises(InputError, match="group 'a' has asymmetric weights, and narrow_range is of symmetric ones"):
        Scheme({"a": group("Linear", symmetric=False)}, narrow_range=True)


DYNAMIC, STATIC = {"strategy": "token", "dynamic": True}, {"strategy": "tensor", "dynamic": False}


def test_a_kv_cache_is_an_activation() -> None:
    dynamic, static = (Scheme({"a": group("Linear")}, kv_cache=args) for args in (DYNAMIC, STATIC))
    assert static.has_static_activations and not dynamic.has_static_activations
    assert dynamic.kv_cache.num_bits == static.kv_cache.num_bits == 8
    assert Scheme(**static.to_dict()) == static != dynamic
    assert Scheme({"a": group("Linear")}).to_dict().keys() == {
        "config_groups", "ignore", "scale_format", "group_fallback",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kv_cache", "message"),
    [
        ("int8", "scheme.kv_cache is 'int8'; give it num_bits, strategy and dynamic, or null"),
        ({"strategy": "token"}, "scheme.kv_cache: .*static token"),
        ({"strategy": "tensor", "dynamic": True}, "strategy 'tensor' with dynamic: true; allowed are"),
        (DYNAMIC | {"symmetric": False}, "symmetric is false; no engine has zero points in its cache"),
        (DYNAMIC | {"type": "float"}, "scheme.kv_cache: type is 'float'; only int grids"),
        ({"strategy": "attn_head"}, "strategy is 'attn_head'; allowed are token, tensor"),
        (DYNAMIC | {"num_bits": 9}, "scheme.kv_cache: num_bits is 9; allowed are 2 to 8"),
        (DYNAMIC | {"bits": 8}, "scheme.kv_cache.bits: Extra inputs are not permitted"),
    ],
)
def test_a_bad_kv_cache_is_refused(kv_cache: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scheme({"a": group("Linear")}, kv_cache=kv_cache)
