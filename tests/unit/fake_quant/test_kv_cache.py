"""Keys and values: rounded once, after the rotary embedding, with and without a cache, as compressed-tensors does."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from support import VOCABULARY, random_llama
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    DynamicCache,
    Gemma3TextConfig,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)

from qat.errors import InputError, RunError
from qat.fake_quant.base import Layout
from qat.fake_quant.dynamic import Dynamic
from qat.fake_quant.kv_cache import attach
from qat.hosts import apply_state, kv_caches, quantizers, range_parameters, uncalibrated
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.schedule import PrecisionState
from qat.scheme import Scheme

LINEARS = {"all": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}}
DYNAMIC = {"num_bits": 8, "strategy": "token", "dynamic": True}
STATIC = {"num_bits": 8, "strategy": "tensor", "dynamic": False}
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
}  # fmt: skip


def prepared(cache: dict[str, Any], tokens: Tensor, model: Any = None) -> Any:
    """A model of which only keys and values are rounded."""
    model = random_llama() if model is None else model
    prepare(model, Scheme(LINEARS, kv_cache=cache))
    calibrate(model, [{"input_ids": tokens}], MinMax())
    weights(model, False)
    return model


def weights(model: nn.Module, on: bool) -> None:
    apply_state(model, PrecisionState(phase="", weights=on, activations=True))


def keys_and_values(model: Any, *chunks: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What the cache of every layer holds after ``chunks`` of tokens, one after the other."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        for chunk in chunks:
            model(chunk, past_key_values=cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def by_hand(x: Tensor, scale: Tensor) -> Tensor:
    return torch.clamp(torch.round(x / scale), -128, 127) * scale


def test_dynamic_keys_have_a_scale_a_token_and_head(tokens: Tensor) -> None:
    floats, rounded = keys_and_values(random_llama(), tokens)[0], keys_and_values(prepared(DYNAMIC, tokens), tokens)[0]
    for x, y in zip(floats, rounded, strict=True):
        assert x.shape == (2, 2, 16, 16), "batch, key-value heads, tokens, head size"
        assert torch.equal(y, by_hand(x, x.abs().amax(-1, keepdim=True) / 127.5))
        args = QuantizationArgs(num_bits=8, strategy="group", group_size=16, dynamic=True)
        scale, zero_point = compute_dynamic_scales_and_zp(x, args, nn.Identity())
        assert torch.equal(y, fake_quantize(x, scale, zero_point, args))
        assert not torch.equal(x, y)


def test_static_keys_have_one_scale_a_layer(tokens: Tensor) -> None:
    floats, model = keys_and_values(random_llama(), tokens)[0], prepared(STATIC, tokens)
    cache = kv_caches(model)["model.layers.0.self_attn"]
    for x, y, quantizer in zip(floats, keys_and_values(model, tokens)[0], (cache.key, cache.value), strict=True):
        scale = x.abs().max() / 127
        assert torch.equal(quantizer.limit, x.abs().max().reshape(1, 1)), "of the float model's keys, after rope"
        assert torch.equal(y, by_hand(x, scale))
        assert torch.equal(y, fake_quantize(x, scale.reshape(1), None, QuantizationArgs(**STATIC)))


@pytest.mark.parametrize("cache", [DYNAMIC, STATIC])
def test_what_is_stored_was_rounded_once_and_stays(tokens: Tensor, cache: dict[str, Any]) -> None:
    model = prepared(cache, tokens)
    first = keys_and_values(model, tokens[:, :6])
    both = keys_and_values(model, tokens[:, :6], tokens[:, 6:])
    whole = keys_and_values(model, tokens)
    for layer in range(2):
        for now, then, at_once in zip(both[layer], first[layer], whole[layer], strict=True):
            assert torch.equal(now[:, :, :6], then), "later tokens change nothing"
            torch.testing.assert_close(now, at_once, atol=0.02, rtol=0)  # sums of other order: at most one code
    with torch.no_grad():
        stored = model(tokens, past_key_values=DynamicCache(config=model.config)).logits
        assert torch.equal(stored, model(tokens, use_cache=False).logits), "no cache, the same numbers"


@pytest.mark.parametrize("config", [Gemma3TextConfig, MistralConfig, Phi3Config, Qwen3Config])
def test_every_decoder_is_reached(tokens: Tensor, config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SMALL)).eval()
    floats = keys_and_values(model, tokens)[0]
    prepared(DYNAMIC, tokens, model)
    assert len(kv_caches(model)) == 2
    for x, y in zip(floats, keys_and_values(model, tokens)[0], strict=True):
        assert torch.equal(y, by_hand(x, x.abs().amax(-1, keepdim=True) / 127.5))
    out = model.generate(tokens[:1, :4], max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert out.shape == (1, 8)


def test_a_schedule_takes_keys_and_values_for_activations(tokens: Tensor) -> None:
    model = prepared(DYNAMIC, tokens)
    on = [q.enabled.item() for cache in kv_caches(model).values() for q in (cache.key, cache.value)]
    assert on == [1.0] * 4
    apply_state(model, PrecisionState(phase="", activations=True, blocks=0.5))
    halves = {name: (cache.key.enabled.item(), cache.value.enabled.item()) for name, cache in kv_caches(model).items()}
    assert halves == {"model.layers.0.self_attn": (1.0, 1.0), "model.layers.1.self_attn": (0.0, 0.0)}
    apply_state(model, PrecisionState(phase="", weights=False, activations=False))
    assert torch.equal(model(tokens).logits, random_llama()(tokens).logits), "off is the float model, bit for bit"


def test_static_ranges_are_calibrated_and_learned(tokens: Tensor) -> None:
    model = random_llama()
    report = prepare(model, Scheme(LINEARS, kv_cache=STATIC))
    assert report.caches == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert report.to_dict()["kv_cache"] == {"scheme": "INT8 tensor", "attentions": report.caches}
    assert len(uncalibrated(model)) == 4
    calibrate(model, [{"input_ids": tokens}], MinMax())
    assert not uncalibrated(model)
    model(tokens, labels=tokens).loss.backward()
    learned = {name: p for name, p in range_parameters(model) if ".kv_fake_quantizer." in name}
    assert len(learned) == 4 and all(parameter.grad.abs().sum() > 0 for parameter in learned.values())


def test_a_copy_has_quantizers_of_its_own(tokens: Tensor) -> None:
    model = prepared(DYNAMIC, tokens)
    copy, before = deepcopy(model), model(tokens).logits
    for quantizer in quantizers(copy).values():
        quantizer.enabled.zero_()
    assert torch.equal(copy(tokens).logits, random_llama()(tokens).logits)
    assert torch.equal(model(tokens).logits, before) and not torch.equal(before, copy(tokens).logits)


class DeafAttention(nn.Module):
    """Takes a cache and leaves it empty."""

    def __init__(self) -> None:
        super().__init__()
        self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, past_key_values: Any = None) -> Tensor:
        return self.v_proj(self.k_proj(x))


def pair(_: str) -> Any:
    return tuple(Dynamic().build(QuantizationArgs(**DYNAMIC), Layout(1, 1, activation=True), "fp32") for _ in range(2))


def test_nothing_is_left_unrounded_in_silence(tokens: Tensor) -> None:
    model = nn.Sequential(DeafAttention())
    assert attach(model, pair) == ["0"]
    with pytest.raises(RunError, match="DeafAttention does not hand its keys and values to a cache"):
        model(torch.randn(1, 8))
    with pytest.raises(InputError, match="0 is prepared already"):
        attach(model, pair)
    bert = BertModel(BertConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(InputError, match="BertModel has no attention with a cache .* set scheme.kv_cache=null"):
        prepare(bert, Scheme(LINEARS, kv_cache=DYNAMIC))
