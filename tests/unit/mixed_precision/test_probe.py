from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import random_llama
from torch import Tensor, nn

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.hosts import hosts
from qat.mixed_precision.probe import Probe, Remembered, check_widths
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq.rtn import RTN
from qat.scheme import Scheme

UP = "model.layers.0.mlp.up_proj"


def test_a_rounded_weight_is_that_of_ptq_bit_for_bit_and_float_again_afterwards(
    probe_of: Callable[..., Probe], scheme: Scheme
) -> None:
    model = random_llama()
    probe = probe_of(model, scheme)
    prepare(model, scheme)
    RTN(MSE(candidates=20)).run(model, [])
    wanted = QuantizedCheckpoint.freeze(model, scheme).weights[UP].grid.value()
    weight = hosts(probe.model)[UP].weight
    before = weight.detach().clone()
    with probe.rounded({UP: 4}):
        assert torch.equal(weight, wanted)
    assert torch.equal(weight, before)


def test_nothing_rounded_does_no_damage_and_fewer_bits_do_more(probe_of: Callable[..., Probe], scheme: Scheme) -> None:
    probe = probe_of(random_llama(), scheme)
    assert probe.damage({}) == 0.0
    damages = [probe.damage({UP: width}) for width in (2, 3, 4, 8)]
    assert damages == sorted(damages, reverse=True)
    assert damages[-1] > 0.0


def test_quantized_activations_are_the_ground(probe_of: Callable[..., Probe]) -> None:
    inputs = {"num_bits": 4, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}, "input_activations": inputs}
    assert probe_of(random_llama(), Scheme({"all": group})).damage({}) > 0.0


def test_an_interrupted_measurement_leaves_the_weights_float(scheme: Scheme) -> None:
    model = random_llama()
    prepare(model, scheme)
    before = hosts(model)[UP].weight.detach().clone()

    def fail(_model: nn.Module) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Probe(model, RTN(MSE()), fail).damage({UP: 2})
    assert torch.equal(hosts(model)[UP].weight, before)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_bytes_are_those_of_the_checkpoint(symmetric: bool, bits: int) -> None:
    """A group size that does not divide every layer, and an embedding tied to the head."""
    weights = {"num_bits": bits, "strategy": "group", "group_size": 32, "symmetric": symmetric}
    scheme = Scheme({"all": {"targets": ["Linear", "Embedding"], "weights": weights}}, group_fallback="channel")
    model = random_llama(intermediate_size=72)
    prepare(model, scheme)
    checkpoint = QuantizedCheckpoint.freeze(model, scheme)
    rest = sum(tensor.nbytes for tensor in checkpoint.rest.values())
    probe = Probe(model, RTN(MSE()), lambda _model: 0.0)
    assert probe.nbytes(hosts(model), bits) + rest == checkpoint.nbytes
    assert probe.weights(hosts(model)) == sum(entry.shape.numel() for entry in checkpoint.weights.values())


def test_tied_weights_are_rounded_once(probe_of: Callable[..., Probe]) -> None:
    scheme = Scheme({"all": {"targets": ["Embedding"], "weights": {"num_bits": 4, "strategy": "channel"}}})
    probe = probe_of(random_llama(), scheme)
    both = probe.damage({"model.embed_tokens": 3, "lm_head": 3})
    assert both == probe.damage({"model.embed_tokens": 3}) > 0.0


@pytest.mark.parametrize("widths", [[], [1, 4], [4, 9], [4, 4]])
def test_widths_without_a_grid_are_refused(widths: list[int]) -> None:
    with pytest.raises(InputError, match="widths="):
        check_widths(widths)


def test_widths_are_sorted() -> None:
    assert check_widths([8, 2, 4]) == [2, 4, 8]


def test_the_reference_is_computed_once_within_its_limit() -> None:
    calls: list[Tensor] = []

    def model(input_ids: Tensor) -> Tensor:
        calls.append(input_ids)
        return input_ids[..., None].float()

    first, second = torch.arange(8)[None], torch.arange(8, 16)[None]
    remembered = Remembered(model, limit=8 * 4)
    for _ in range(2):
        assert torch.equal(remembered(first), first[..., None].float())
        assert torch.equal(remembered(second), second[..., None].float())
    assert [int(ids[0, 0]) for ids in calls] == [0, 8, 8]
