"""AWQ: the search by hand on a Linear(8, 6), then whole models: unchanged in float, better when rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import VOCABULARY, random_llama
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.evaluate.parity import parity
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.hosts import hosts
from qat.models import tiny_llama
from qat.models.conv1d import to_linear
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq.awq import AWQ, output_error, scale_of
from qat.ptq.clip import OutputMSE
from qat.ptq.fold import Fold, floating
from qat.ptq.rtn import RTN
from qat.ptq.store import BlockStore
from qat.restore import restore
from qat.scheme import Scheme, preset

SMALL = AWQ(MinMax(), steps=5)
CHANNEL3 = Scheme(
    {"w": {"targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "channel"}}}, scale_format="fp32"
)


def linear_with_outliers() -> tuple[Any, Tensor]:
    """A host Linear(8, 6), and inputs of which two channels are much larger than the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6))
    prepare(model, CHANNEL3, observer=MinMax())
    return model[0], torch.randn(64, 8) * torch.tensor([30.0, 1, 1, 10, 1, 1, 1, 1])


def rounded(weight: Tensor) -> Tensor:
    """3 bits, one scale a row, by the formula."""
    scale = weight.abs().amax(1, keepdim=True) / 3
    return torch.clamp(torch.round(weight / scale), -4, 3) * scale


def test_the_scale_by_hand() -> None:
    magnitude = torch.tensor([1.0, 4.0, 16.0])
    torch.testing.assert_close(scale_of(magnitude, 0.5), torch.tensor([0.5, 1.0, 2.0]))
    assert torch.equal(scale_of(magnitude, 0.0), torch.ones(3))
    assert torch.isfinite(scale_of(torch.tensor([0.0, 1.0]), 0.95)).all()


@torch.no_grad()
def test_the_error_is_equation_4() -> None:
    host, x = linear_with_outliers()
    scale, weight = scale_of(x.abs().mean(0), 0.5), host.weight.clone()
    expected = ((x / scale) @ rounded(weight * scale).T - x @ weight.T).square().sum().item()
    assert output_error(host, scale, x, MinMax()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(host.weight, weight)


@torch.no_grad()
def test_the_best_alpha_is_found() -> None:
    host, x = linear_with_outliers()
    norm, weight = nn.LayerNorm(8), host.weight.clone()
    fold = Fold({"l": host}, norm, "n", torch.arange(8), 8)
    errors = {}
    for step in range(10):
        scale = scale_of(x.abs().mean(0), step / 10)
        errors[step] = ((x / scale) @ rounded(weight * scale).T - x @ weight.T).square().sum().item()
    best = min(errors, key=errors.__getitem__)
    assert best > 0 and errors[best] < 0.5 * errors[0], "outliers make a scale worth it"
    found = AWQ(MinMax(), steps=10, clip=False).best_scale(fold, [host], x)
    torch.testing.assert_close(found, scale_of(x.abs().mean(0), best / 10), rtol=0.005, atol=0)  # snapped to 8 bits
    fold.apply(found)
    torch.testing.assert_close(host.weight, weight * found)
    torch.testing.assert_close(norm.weight, 1 / found)


def gemma() -> nn.Module:
    return GemmaForCausalLM(
        GemmaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    model = GPT2LMHeadModel(config)
    to_linear(model)
    return model


def bert() -> nn.Module:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **sizes))


MAKERS = {"llama": random_llama, "gemma": gemma, "gpt2": gpt2, "bert": bert}


def made(name: str) -> Any:
    """With norms that are not ones, in bfloat16's numbers, as in a model's files."""
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn(parameter.shape) * 0.1
        parameter.data = parameter.data.bfloat16().float()
    return model


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("llama", "w4a8_channel"), ("gemma", "w3a16_channel"), ("gpt2", "w2a16_g32_asym"), ("bert", "w4a16_g32")],
)
@torch.no_grad()
def test_the_model_stays_what_it_is_in_float_and_freezes(name: str, scheme: str, tokens: Tensor) -> None:
    model = made(name)
    reference, before = model(tokens).logits, {key: value.clone() for key, value in model.named_parameters()}
    prepare(model, preset(scheme), observer=MinMax())
    SMALL.run(model, [{"input_ids": tokens}])
    with floating(model):
        torch.testing.assert_close(model(tokens).logits, reference, rtol=1e-4, atol=1e-5)
    checkpoint = QuantizedCheckpoint.freeze(model, preset(scheme), "masked_lm" if name == "bert" else "causal_lm")
    torch.testing.assert_close(restore(checkpoint)(tokens).logits, model(tokens).logits)
    changed = {key for key, value in checkpoint.rest.items() if key in before and not torch.equal(value, before[key])}
    if name == "bert":  # of its biases only that of the value linear is scaled
        assert changed <= {f"bert.encoder.layer.{i}.attention.self.value.bias" for i in range(2)}
    else:
        assert any("norm" in key or "ln_" in key for key in changed)


@torch.no_grad()
def test_folded_norms_survive_16_bits_and_an_export(tmp_path: Path, tokens: Tensor) -> None:
    model = made("llama")
    prepare(model, preset("w4a16_g32"), observer=MinMax())
    SMALL.run(model, [{"input_ids": tokens}])
    checkpoint = QuantizedCheckpoint.freeze(model, preset("w4a16_g32"), rest_dtype=torch.bfloat16)
    for key, value in checkpoint.rest.items():
        torch.testing.assert_close(value.float(), model.state_dict()[key], rtol=1e-6, atol=0)
    exporter = CompressedTensorsExporter()
    exporter.write(checkpoint, tmp_path / "export")
    assert parity(checkpoint, exporter.read(tmp_path / "export")).exact


@pytest.mark.slow
def test_a_trained_model_loses_less_than_with_round_to_nearest() -> None:
    loaded = tiny_llama.load()
    text = Path(torch.__file__).with_name("functional.py").read_text()[:16000]
    ids = torch.tensor(loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: 40 * 64])
    test, calibration = ids.reshape(40, 64).split([8, 32])
    losses = []
    for algorithm in (RTN(MinMax()), RTN(MSE()), AWQ(MinMax(), steps=4, tokens=1024)):
        model: Any = tiny_llama.load().model
        prepare(model, preset("w4a16_channel"), observer=MinMax())
        algorithm.run(model, [{"input_ids": calibration}])
        with torch.no_grad():
            losses.append(float(model(test, labels=test).loss))
    rtn, rtn_mse, awq = losses
    assert awq < rtn_mse < rtn


@torch.no_grad()
def test_with_clipping_alpha_is_the_best_for_clipped_weights() -> None:
    host, x = linear_with_outliers()
    fold = Fold({"l": host}, nn.LayerNorm(8), "n", torch.arange(8), 8)
    errors = {}
    for step in range(10):
        scale = fold.snapped(scale_of(x.abs().mean(0), step / 10))
        errors[step] = output_error(host, scale, x, OutputMSE((x / scale).T @ (x / scale), candidates=12))
        assert errors[step] <= output_error(host, scale, x, MinMax())
    best = scale_of(x.abs().mean(0), min(errors, key=errors.__getitem__) / 10)
    found = AWQ(MinMax(), steps=10).best_scale(fold, [host], x)
    torch.testing.assert_close(found, best, rtol=0.005, atol=0)


def test_finished_blocks_are_taken_from_the_store_with_their_norms(tmp_path: Path, tokens: Tensor) -> None:
    results = []
    for _ in range(2):
        model = made("llama")
        prepare(model, preset("w4a16_g32"), observer=MinMax())
        SMALL.run(model, [{"input_ids": tokens}], BlockStore(tmp_path / "store"))
        results.append(model.state_dict())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def test_a_float_linear_of_a_group_is_scaled_too(tokens: Tensor) -> None:
    model = made("llama")
    reference = model(tokens).logits
    scheme = Scheme(dict(preset("w4a16_g32").config_groups), ignore=["re:.*q_proj", "re:.*v_proj"])
    prepare(model, scheme, observer=MinMax())
    SMALL.run(model, [{"input_ids": tokens}])
    assert not any(name.endswith(("q_proj", "v_proj")) for name in hosts(model))
    with floating(model), torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["steps", "tokens"])
def test_a_search_over_nothing_is_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"ptq.{option} is 0; it must be 1 or more"):
        AWQ(MinMax(), **{option: 0})
