"""A probe on a tiny Llama, and a sensitivity that needs no model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from support import random_llama
from torch import Tensor, nn

from qat.evaluate.agreement import kl_sum
from qat.mixed_precision.probe import Probe
from qat.mixed_precision.sensitivity import Sensitivity, UnitDamage
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq.rtn import RTN
from qat.scheme import Scheme

LINEAR = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}}


@pytest.fixture
def scheme() -> Scheme:
    """INT4 weights of every linear layer, channel by channel."""
    return Scheme({"weights": LINEAR})


@pytest.fixture
def probe_of(tokens: Tensor) -> Callable[..., Probe]:
    """``probe_of(model, scheme)`` measures the KL to the model as it is now, on ``tokens``."""

    def make(model: nn.Module, scheme: Scheme) -> Probe:
        with torch.no_grad():
            wanted = model(tokens).logits.log_softmax(-1)
        prepared = deepcopy(model)
        prepare(prepared, scheme)

        def damage(model: nn.Module) -> float:
            with torch.no_grad():
                return float(kl_sum(model(tokens).logits.log_softmax(-1), wanted)) / tokens.numel()

        return Probe(prepared, RTN(MSE(candidates=20)), damage)

    return make


@pytest.fixture
def fragile() -> nn.Module:
    """A Llama with one fragile layer, ``model.layers.1.mlp.down_proj``.

    What its input 0 has less, its column 0 has more: the model computes the same, but every channel of the layer has
    one weight that is much larger than all others, and sets the step of its grid.
    """
    model = random_llama(tie_word_embeddings=False)
    mlp = model.model.layers[1].mlp
    with torch.no_grad():
        mlp.down_proj.weight *= 100  # so that the block matters beside the others
        mlp.up_proj.weight[0] /= 16
        mlp.down_proj.weight[:, 0] *= 16
    return model


@pytest.fixture
def made() -> Callable[..., Sensitivity]:
    """``made([[0.4, 0.1], [0.3, 0.2]], [100, 300])`` has two layers of so many weights, at 2 and 4 bits."""

    def make(damages: list[list[float]], weights: list[int], widths: tuple[int, ...] = (2, 4)) -> Sensitivity:
        found = [
            UnitDamage(
                name=f"layers.{index}",
                modules=[f"layers.{index}"],
                weights=count,
                damage=dict(zip(widths, row, strict=True)),
                bytes={width: count * width // 8 + 16 for width in widths},
            )
            for index, (row, count) in enumerate(zip(damages, weights, strict=True))
        ]
        fixed: dict[str, Any] = {"model": "made", "scheme": {}, "ptq": "rtn", "measure": "kl", "tokens": 1}
        return Sensitivity(**fixed, granularity="layer", widths=list(widths), ground=0.0, rest_bytes=1000, units=found)

    return make
