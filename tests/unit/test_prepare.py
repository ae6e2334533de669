"""Insertion of fake quantizers, alone through torchao and for a whole model, and the state they are in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import quantize_
from torchao.quantization.qat import FakeQuantizedEmbedding, FakeQuantizedLinear

from qat.errors import InputError
from qat.fake_quant.lsq import LSQ
from qat.fake_quant.minmax import MinMax
from qat.hosts import apply_state, block_index, hosts, quantizers, range_parameters, uncalibrated
from qat.prepare import LearnedQATConfig, prepare
from qat.schedule import PrecisionState
from qat.scheme import Scheme, preset

CHANNEL8 = {"num_bits": 8, "strategy": "channel"}


def test_torchao_alone_prepares_every_linear() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32, bias=False))
    weights = [model[0].weight, model[2].weight]
    quantize_(model, LearnedQATConfig("w4a16_g32", step="prepare"))
    assert [type(model[i]) for i in (0, 2)] == [FakeQuantizedLinear] * 2
    assert [model[0].weight, model[2].weight] == weights, "the very parameters, so an optimizer keeps them"
    expected = nn.functional.linear(torch.ones(1, 32), model[0].weight_fake_quantizer(model[0].weight), model[0].bias)
    assert torch.equal(model[0](torch.ones(1, 32)), expected)


def test_no_random_number_is_drawn() -> None:
    model = nn.Sequential(nn.Linear(32, 64))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    quantize_(model, LearnedQATConfig("w4a16_g32"))
    assert torch.equal(torch.get_rng_state(), before)


def test_torchao_alone_refuses_what_it_cannot_do() -> None:
    two = Scheme({"a": {"targets": ["Linear"], "weights": CHANNEL8}, "b": {"targets": ["x"], "weights": CHANNEL8}})
    with pytest.raises(InputError, match="2 groups"):
        LearnedQATConfig(two)
    with pytest.raises(InputError, match="step is 'train'"):
        LearnedQATConfig("w8a8", step="train")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not divide 48"):
        quantize_(nn.Sequential(nn.Linear(48, 8)), LearnedQATConfig("w4a16_g32"))
    with pytest.raises(InputError, match="ReLU cannot be fake-quantized"):
        quantize_(nn.Sequential(nn.ReLU()), LearnedQATConfig("w8a8"), filter_fn=lambda m, _: isinstance(m, nn.ReLU))
    once = nn.Sequential(nn.Linear(32, 8))
    quantize_(once, LearnedQATConfig("w4a16_g32"))
    with pytest.raises(InputError, match="prepared already"):
        quantize_(once, LearnedQATConfig("w4a16_g32"))


def test_report_names_every_module_and_why(llama) -> None:
    report = prepare(llama(), preset("w4a16_g32"))
    rows = {row.name: row for row in report.rows}
    assert len(report.quantized) == 14
    assert rows["model.embed_tokens"].scheme is None and "not targeted" in rows["model.embed_tokens"].reason
    assert "output head" in rows["lm_head"].reason
    assert rows["model.norm"].reason == "has no grid"
    quantized = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    assert report.quantized_share == quantized / (quantized + 100 * 64 + 5 * 64)
    assert report.to_dict()["modules"][1] == {
        "name": "model.layers.0.self_attn.q_proj",
        "kind": "Linear",
        "parameters": 64 * 64,
        "scheme": "INT4 group 32",
        "reason": "",
    }


@pytest.mark.parametrize("target", ["Embedding", "lm_head"])
def test_tied_weights_share_one_quantizer(llama, tokens: torch.Tensor, target: str) -> None:
    model = llama(tie=True)
    prepare(model, Scheme({"a": {"targets": [target], "weights": CHANNEL8}}))
    embedding, head = model.model.embed_tokens, model.lm_head
    assert isinstance(embedding, FakeQuantizedEmbedding) and isinstance(head, FakeQuantizedLinear)
    assert embedding.weight is head.weight
    assert embedding.weight_fake_quantizer is head.weight_fake_quantizer
    assert len(quantizers(model)) == len(range_parameters(model)) == 1
    rounded = embedding.weight_fake_quantizer(embedding.weight)
    plain = llama(tie=True)
    with torch.no_grad():
        plain.lm_head.weight.copy_(rounded)
    torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)


def test_tied_weights_on_two_grids_are_refused(llama) -> None:
    groups = {
        "a": {"targets": ["Embedding"], "weights": CHANNEL8},
        "b": {"targets": ["lm_head"], "weights": {"num_bits": 4, "strategy": "channel"}},
    }
    with pytest.raises(InputError, match="share one weight but have different grids"):
        prepare(llama(tie=True), Scheme(groups))
    prepare(llama(tie=False), Scheme(groups))


def test_a_tied_weight_with_quantized_inputs_is_refused(llama) -> None:
    """Tied weights are stored once, under the embedding's name, which has no input to quantize."""
    scheme = preset("w8a8").to_dict()
    scheme["config_groups"]["weights"]["targets"].append("lm_head")
    with pytest.raises(InputError, match="lm_head shares its weight with model.embed_tokens"):
        prepare(llama(tie=True), Scheme(**scheme))
    assert "lm_head" in [row.name for row in prepare(llama(tie=False), Scheme(**scheme)).quantized]


def test_state_reaches_every_quantizer(llama) -> None:
    model = llama()
    prepare(model, preset("w4a8_g32"))
    apply_state(model, PrecisionState("x", weight_bits=6, activations=False, mix=0.5))
    for host in hosts(model).values():
        weight, activation = host.weight_fake_quantizer, host.activation_fake_quantizer
        assert (weight.qmin.item(), weight.qmax.item(), weight.enabled.item(), weight.mix.item()) == (-32, 31, 1, 0.5)
        assert (activation.qmax.item(), activation.enabled.item()) == (127, 0)


def test_weight_bits_are_a_lower_bound(llama) -> None:
    model = llama()
    prepare(model, preset("w8a16"))
    apply_state(model, PrecisionState("x", weight_bits=4))
    assert all(quantizer.qmax.item() == 127 for quantizer in quantizers(model).values())


def test_blocks_are_turned_on_in_order(llama) -> None:
    model = llama(tie=False)
    groups = {"a": {"targets": ["Linear", "lm_head", "Embedding"], "weights": CHANNEL8}}
    prepare(model, Scheme(groups))

    def on() -> set[int | None]:
        return {block_index(name) for name, host in hosts(model).items() if host.weight_fake_quantizer.enabled == 1}

    apply_state(model, PrecisionState("x", blocks=0.5))
    assert on() == {0}
    apply_state(model, PrecisionState("x", blocks=0.5, block_order="back_to_front"))
    assert on() == {1}
    apply_state(model, PrecisionState("x"))
    assert on() == {None, 0, 1}


def test_all_off_is_the_float_model_bit_for_bit(llama, tokens: torch.Tensor) -> None:
    model = llama()
    before = model(tokens).logits
    prepare(model, preset("w4a8_g32"))
    assert not torch.equal(model(tokens).logits, before)
    apply_state(model, PrecisionState("x", weights=False, activations=False))
    assert torch.equal(model(tokens).logits, before)


def test_ranges_are_learned_only_where_asked(llama) -> None:
    for config, count in ((LSQ(), 14), (LSQ(learn=False), 0), (MinMax(), 0)):
        model = llama()
        prepare(model, preset("w4a16_channel"), config)
        assert len(range_parameters(model)) == count


def test_static_activations_wait_for_calibration(llama) -> None:
    model = llama()
    prepare(model, preset("w8a8_static"))
    assert len(uncalibrated(model)) == 14
    assert uncalibrated(model)[0] == "model.layers.0.self_attn.q_proj.activation_fake_quantizer"


def test_an_embedding_with_its_own_forward_is_refused() -> None:
    class Scaled(nn.Embedding):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().forward(tokens) * 8

    with pytest.raises(InputError, match="Scaled has a forward pass of its own"):
        prepare(nn.Sequential(Scaled(10, 8)), Scheme({"a": {"targets": ["Embedding"], "weights": CHANNEL8}}))


def test_gradients_reach_weights_and_ranges(llama, tokens: torch.Tensor) -> None:
    model = llama()
    prepare(model, preset("w4a8_g32"))
    model(tokens, labels=tokens).loss.backward()
    for name, host in hosts(model).items():
        assert host.weight.grad.abs().sum() > 0, name
    for name, parameter in range_parameters(model):
        assert parameter.grad.abs().sum() > 0, name
