"""SmoothQuant: equation 4 by hand, then a model with outliers: unchanged in float, much better when rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import random_llama
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.evaluate.parity import parity
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.fold import Fold, floating
from qat.ptq.rtn import RTN
from qat.ptq.smoothquant import SmoothQuant
from qat.scheme import Scheme, preset


def with_outliers() -> Any:
    """A Llama whose norms make some channels much larger than the others, as those of large models do."""
    model = random_llama()
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[::16] = 64.0
            for linear in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
                linear.weight[:, ::16] /= 64.0
    return model


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.5, [2.0, 4.0, 1.0, 1.0]), (1.0, [8.0, 4.0, 1.0, 1.0]), (0.0, [0.5, 4.0, 1.0, 1.0])],
)
@torch.no_grad()
def test_the_scale_is_equation_4(alpha: float, expected: list[float]) -> None:
    linear, other = nn.Linear(4, 6), nn.Linear(4, 2)
    linear.weight.copy_(torch.tensor([2.0, 0.125, 0.0, 1.0]).expand(6, 4))
    other.weight.copy_(torch.tensor([-1.0, -0.25, 0.0, 1.0]).expand(2, 4))
    fold = Fold({"a": linear, "b": other}, nn.LayerNorm(4), "n", torch.arange(4), 4)
    found = SmoothQuant(MinMax(), alpha=alpha).scale_of(fold, torch.tensor([8.0, 4.0, 3.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor(expected))


@torch.no_grad()
def test_channels_that_share_a_row_have_one_scale() -> None:
    linear = nn.Linear(4, 6)
    linear.weight.copy_(torch.tensor([1.0, 1.0, 4.0, 1.0]).expand(6, 4))
    fold = Fold({"a": linear}, nn.Linear(3, 2), "p", torch.tensor([0, 1, 0, 1]), 2)
    found = SmoothQuant(MinMax()).scale_of(fold, torch.tensor([16.0, 1.0, 1.0, 9.0]))
    torch.testing.assert_close(found, torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8_static", "w4a8_g32"])
@pytest.mark.parametrize("norms_only", [True, False])
@torch.no_grad()
def test_the_model_stays_what_it_is_in_float(tokens: Tensor, norms_only: bool, scheme: str) -> None:
    model = with_outliers()
    reference = model(tokens).logits
    before = {key: value.clone() for key, value in model.named_parameters()}
    prepare(model, preset(scheme), observer=MinMax())
    SmoothQuant(MinMax(), norms_only=norms_only).run(model, [{"input_ids": tokens}])
    with floating(model):
        torch.testing.assert_close(model(tokens).logits, reference, rtol=1e-4, atol=1e-5)
    changed = {key.split(".", 3)[-1] for key, value in model.named_parameters() if not _same(before, key, value)}
    assert {"input_layernorm.weight", "post_attention_layernorm.weight", "mlp.up_proj.weight"} <= changed
    assert ("mlp.down_proj.weight" in changed) == ("self_attn.o_proj.weight" in changed) == (not norms_only)


def _same(before: dict[str, Tensor], key: str, value: Tensor) -> bool:
    return key not in before or torch.equal(before[key], value)


@torch.no_grad()
def test_outliers_cost_less(tokens: Tensor) -> None:
    reference, errors = with_outliers()(tokens).logits, []
    for algorithm in (RTN(MinMax()), SmoothQuant(MinMax())):
        model = with_outliers()
        prepare(model, preset("w8a8"), observer=MinMax())
        algorithm.run(model, [{"input_ids": tokens}])
        errors.append((model(tokens).logits - reference).norm().item())
    assert errors[1] < 0.5 * errors[0]


@torch.no_grad()
def test_it_freezes_and_exports(tmp_path: Path, tokens: Tensor) -> None:
    model = with_outliers()
    prepare(model, preset("w8a8"), observer=MinMax())
    SmoothQuant(MinMax()).run(model, [{"input_ids": tokens}])
    checkpoint = QuantizedCheckpoint.freeze(model, preset("w8a8"), rest_dtype=torch.bfloat16)
    key = "model.layers.0.input_layernorm.weight"
    assert not torch.equal(checkpoint.rest[key].float(), with_outliers().state_dict()[key])
    torch.testing.assert_close(checkpoint.rest[key].float(), model.state_dict()[key], rtol=1e-6, atol=0)
    exporter = CompressedTensorsExporter()
    exporter.write(checkpoint, tmp_path / "export")
    assert parity(checkpoint, exporter.read(tmp_path / "export")).exact


def test_a_scheme_of_weights_alone_is_refused(tokens: Tensor) -> None:
    model = random_llama()
    prepare(model, preset("w4a16_g32"), observer=MinMax())
    with pytest.raises(InputError, match=r"leaves those of model.layers.0 float; take ptq=awq, or a scheme with input"):
        SmoothQuant(MinMax()).run(model, [{"input_ids": tokens}])


def test_a_model_without_a_norm_to_scale_is_refused(tokens: Tensor) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=100, **sizes))
    prepare(model, preset("w8a8"), observer=MinMax())
    with pytest.raises(InputError, match=r"no norm of bert.encoder.layer.0 can be scaled .* take ptq=rtn_mse"):
        SmoothQuant(MinMax()).run(model, [{"input_ids": tokens}])


def test_only_linears_with_quantized_inputs_are_looked_at(tokens: Tensor) -> None:
    groups = {
        "attention": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 4, "strategy": "channel"}},
        "mlp": dict(preset("w8a8").config_groups["weights"].model_dump(), targets=["re:.*mlp.*"]),
    }
    model, scheme = with_outliers(), Scheme(groups)
    before = model.model.layers[0].input_layernorm.weight.clone()
    prepare(model, scheme, observer=MinMax())
    SmoothQuant(MinMax()).run(model, [{"input_ids": tokens}])
    assert torch.equal(model.model.layers[0].input_layernorm.weight, before)
    assert not torch.equal(model.model.layers[0].post_attention_layernorm.weight, torch.ones(64))


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match="allowed is 0 to 1"):
        SmoothQuant(MinMax(), alpha=alpha)
