from __future__ import annotations

from support import random_llama
from torch import Tensor

from qat.mixed_precision.units import Granularity, Unit, units
from qat.prepare import prepare
from qat.scheme import Scheme

ATTENTION = "model.layers.0.self_attn"
MLP = "model.layers.0.mlp"
EVERYTHING = {"targets": ["Linear", "Embedding"], "weights": {"num_bits": 4, "strategy": "channel"}}


def found(granularity: Granularity, tokens: Tensor, scheme: Scheme, **changes: object) -> list[Unit]:
    model = random_llama(**changes)
    prepare(model, scheme)
    return units(model, granularity, {"input_ids": tokens[:1, :4]})


def test_each_layer_decides_for_itself(tokens: Tensor, scheme: Scheme) -> None:
    layers = found("layer", tokens, scheme)
    assert len(layers) == 2 * 7
    assert layers[0] == Unit(f"{ATTENTION}.q_proj", (f"{ATTENTION}.q_proj",))


def test_layers_that_read_one_tensor_are_one(tokens: Tensor, scheme: Scheme) -> None:
    groups = found("shared_input", tokens, scheme)
    assert [unit.name for unit in groups[:4]] == [
        f"{ATTENTION}.q_proj+k_proj+v_proj",
        f"{ATTENTION}.o_proj",
        f"{MLP}.gate_proj+up_proj",
        f"{MLP}.down_proj",
    ]
    assert groups[2].modules == (f"{MLP}.gate_proj", f"{MLP}.up_proj")


def test_a_block_is_one_and_what_lies_outside_is_for_itself(tokens: Tensor) -> None:
    scheme = Scheme({"all": EVERYTHING | {"targets": ["Linear", "Embedding", "lm_head"]}})
    names = [unit.name for unit in found("block", tokens, scheme, tie_word_embeddings=False)]
    assert names == ["model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head"]


def test_tied_weights_are_one_decision_at_every_granularity(tokens: Tensor) -> None:
    granularities: tuple[Granularity, ...] = ("layer", "shared_input", "block")
    for granularity in granularities:
        first = found(granularity, tokens, Scheme({"all": EVERYTHING}))[0]
        assert first == Unit("model.embed_tokens+lm_head", ("model.embed_tokens", "lm_head")) or first == Unit(
            "model.embed_tokens+lm_head", ("lm_head", "model.embed_tokens")
        )
