"""GPTQ against the plain form of its paper: one column at a time, with the inverse Hessian itself, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.fake_quant.minmax import MinMax as MinMaxQuantizer
from qat.hosts import Host, hosts
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.paths import configs_dir
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.ptq.gptq import GPTQ
from qat.ptq.rtn import RTN
from qat.scheme import Scheme, preset

PRESETS = sorted(path.stem for path in (configs_dir() / "scheme").glob("*.yaml"))
OWN = {
    "tensor": {"num_bits": 4, "strategy": "tensor"},
    "tensor_asym": {"num_bits": 4, "strategy": "tensor", "symmetric": False},
    "channel_asym": {"num_bits": 3, "strategy": "channel", "symmetric": False},
}


def one_layer(scheme: Scheme, rows: int = 6, columns: int = 128) -> tuple[Host, Tensor]:
    """A prepared linear and inputs [200, columns] that are correlated, as those of a real layer are."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.Linear(columns, rows, bias=False)})
    group = next(iter(scheme.config_groups.values())).model_copy(update={"targets": ["Linear"]})
    options = {"scale_format": scheme.scale_format, "narrow_range": scheme.narrow_range}
    prepare(model, Scheme({"all": group}, **options), observer=MinMax())
    x = torch.randn(200, columns) @ (torch.eye(columns) + 0.3 * torch.randn(columns, columns))
    return hosts(model)["layer"], x


def plain_gptq(weight: Tensor, x: Tensor, quantizer: Any, damping: float, act_order: bool) -> tuple[Tensor, Tensor]:
    """Codes [out, in] and the scale of every column [rows, in]; min-max ranges."""
    args, rounding = quantizer.args, quantizer.scale_format.round
    qmax = 2 ** (args.num_bits - 1) - 1
    qmin = -qmax if quantizer.narrow_range else -qmax - 1
    w, columns = weight.double().clone(), weight.shape[1]
    size = args.group_size or columns

    def of(part: Tensor) -> tuple[Tensor, Tensor]:
        part = part.flatten().unsqueeze(0) if args.strategy == "tensor" else part
        part = part.float()
        if args.symmetric:
            scale = rounding(part.abs().amax(1) / qmax)
            return scale, torch.zeros_like(scale)
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        scale = rounding((high - low) / (qmax - qmin))
        return scale, torch.round(qmin - low / scale).clamp(qmin, qmax)

    grids = {start: of(w[:, start : start + size]) for start in range(0, columns, size)}
    hessian = x.double().t() @ x.double()
    inverse = torch.linalg.inv(hessian + damping * hessian.diagonal().mean() * torch.eye(columns))
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist() if act_order else range(columns)
    codes, scales = torch.empty_like(weight), torch.empty_like(weight)
    for column in order:
        start = column // size * size
        if args.group_size and not act_order and column == start:
            grids[start] = of(w[:, start : start + size])
        scale, zero = grids[start]
        code = torch.round(w[:, column] / scale + zero).clamp(qmin, qmax)
        error = (w[:, column] - (code - zero) * scale) / inverse[column, column]
        w -= torch.outer(error, inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        codes[:, column], scales[:, column] = code.float(), scale
    return codes, scales


def assert_as_in_the_paper(scheme: Scheme, order: Any, block_size: int) -> None:
    host, x = one_layer(scheme)
    quantizer = host.weight_fake_quantizer
    codes, scales = plain_gptq(host.weight.detach(), x, quantizer, 0.01, order == "activations")
    with torch.no_grad():
        GPTQ(MinMax(), 0.01, order, block_size).quantize_host("layer", host, x.t() @ x)
    found = quantizer.grid(host.weight)
    assert torch.equal(found.codes, codes.to(torch.int8))
    stored = found.scale.float().reshape(1, 1) if found.scale.ndim == 1 else found.scale.float()
    repeated = stored.repeat_interleave(128 // stored.shape[1], dim=1).expand(6, 128)
    assert torch.equal(repeated, scales)
    assert torch.equal(found.value(), host.weight), "the weight lies on its grid"


@pytest.mark.parametrize("order", ["columns", "activations"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_codes_of_the_paper(name: str, order: str) -> None:
    assert_as_in_the_paper(preset(name), order, 32)


@pytest.mark.parametrize("order", ["columns", "activations"])
@pytest.mark.parametrize("name", list(OWN))
def test_other_grids_have_the_codes_of_the_paper(name: str, order: str) -> None:
    assert_as_in_the_paper(Scheme({"all": {"targets": ["Linear"], "weights": OWN[name]}}), order, 32)


@pytest.mark.parametrize("block_size", [1, 7, 40, 128, 1000])
@pytest.mark.parametrize("name", ["w4a16_channel", "w4a16_g32_asym"])
def test_the_block_size_changes_nothing(name: str, block_size: int) -> None:
    assert_as_in_the_paper(preset(name), "columns", block_size)


def test_a_scale_format_is_applied_before_the_columns_are_rounded() -> None:
    for name in ("lossless_fp16", "significand_1", "fp16"):
        scheme = preset("w4a16_channel")
        assert_as_in_the_paper(Scheme(scheme.config_groups, scale_format=name), "columns", 32)


def test_the_observer_sees_groups_as_they_are_by_now() -> None:
    host, x = one_layer(preset("w4a16_g32"))
    seen: list[Tensor] = []

    class Seeing(MinMax):
        def range(self, groups: Tensor, spec: Any) -> tuple[Tensor, Tensor]:
            seen.append(groups.clone())
            return super().range(groups, spec)

    before = host.weight.detach().clone()
    with torch.no_grad():
        GPTQ(Seeing()).quantize_host("layer", host, x.t() @ x)
    first, later = seen[-4], seen[-3]
    assert torch.equal(first[:, 0], before[:, :32])
    assert not torch.equal(later[:, 0], before[:, 32:64])


def test_a_channel_that_is_always_zero_rounds_to_nearest_and_moves_nothing() -> None:
    (with_dead, x), (without, _) = one_layer(preset("w4a16_channel")), one_layer(preset("w4a16_channel"))
    x[:, [3, 70]] = 0.0
    before = with_dead.weight.detach().clone()
    with torch.no_grad():
        GPTQ(MinMax()).quantize_host("layer", with_dead, x.t() @ x)
        nearest = without.weight_fake_quantizer(without.weight)
    assert torch.equal(with_dead.weight[:, [3, 70]], nearest[:, [3, 70]])
    assert not torch.equal(with_dead.weight, nearest)
    assert bool((with_dead.weight - before).isfinite().all())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "the input of body.layer is not finite"),
        (0.0, "the input of body.layer is zero on all calibration data"),
        (-1.0, "the Hessian of body.layer has no Cholesky factor with ptq.damping=0.01"),
    ],
)
def test_a_hessian_that_says_nothing_names_its_module(value: float, message: str) -> None:
    host, _ = one_layer(preset("w4a16_channel"))
    hessian = torch.full((128, 128), value)
    if value == -1.0:
        hessian.fill_diagonal_(0.5)
    with pytest.raises(RunError, match=message), torch.no_grad():
        GPTQ(MinMax()).quantize_host("body.layer", host, hessian)


def test_a_weight_that_is_not_finite_is_named() -> None:
    host, _ = one_layer(preset("w4a16_channel"))
    host.weight.data[0, 0] = float("inf")
    with torch.no_grad(), pytest.raises(RunError, match=r"body.layer.weight holds numbers that are not finite"):
        GPTQ(MinMax()).quantize_host("body.layer", host, torch.eye(128))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "ptq.damping is 0.0; allowed is above 0 and at most 1"),
        ({"order": "rows"}, "ptq.order is 'rows'; allowed are activations, columns"),
        ({"block_size": 0}, "ptq.block_size is 0; allowed is 1 or more"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GPTQ(MinMax(), **options)


def test_quantizers_without_ranges_are_refused(llama: Callable[..., LlamaForCausalLM], tokens: Tensor) -> None:
    model = llama()
    prepare(model, preset("w4a16_g32"), MinMaxQuantizer())
    with pytest.raises(InputError, match=r"ptq=gptq sets ranges, and the MinMaxFakeQuantizer of model.layers.0"):
        GPTQ(MinMax()).run(model, [{"input_ids": tokens}])


def float_input(model: LlamaForCausalLM, quantized: LlamaForCausalLM, name: str, tokens: Tensor) -> Tensor:
    """The input of a linear of the float model, if every linear that runs before it has its quantized weight."""
    order = [f"model.layers.{i}.{part}" for i in (0, 1) for part in
             ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
              "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]  # fmt: skip
    same_input = {"k_proj": 1, "v_proj": 2, "up_proj": 1}
    first = order.index(name) - same_input.get(name.rpartition(".")[2], 0)
    seen: list[Tensor] = []
    with torch.no_grad():
        for earlier in order[:first]:
            model.get_submodule(earlier).weight.copy_(quantized.get_submodule(earlier).weight)
        model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model(tokens)
    return seen[0].reshape(-1, seen[0].shape[-1])


def test_each_layer_sees_what_the_quantized_layers_before_it_give(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hessians: dict[str, Tensor] = {}
    quantize_host = GPTQ.quantize_host

    def noting(self: GPTQ, name: str, host: Host, hessian: Tensor) -> None:
        hessians[name] = hessian.clone()
        quantize_host(self, name, host, hessian)

    monkeypatch.setattr(GPTQ, "quantize_host", noting)
    model = llama()
    prepare(model, preset("w3a16_channel"), observer=MinMax())
    GPTQ(MinMax()).run(model, [{"input_ids": tokens}])
    assert len(hessians) == 14
    for name, hessian in hessians.items():
        x = float_input(llama(), model, name, tokens)
        assert torch.equal(hessian, x.t() @ x), name


def test_dynamic_activations_are_rounded_in_the_hessian(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hessians: dict[str, Tensor] = {}
    monkeypatch.setattr(GPTQ, "quantize_host", lambda self, name, host, hessian: hessians.update({name: hessian}))
    model = llama()
    prepare(model, preset("w4a8_channel"), observer=MinMax())
    GPTQ(MinMax()).run(model, [{"input_ids": tokens}])
    x = float_input(llama(), model, "model.layers.0.self_attn.q_proj", tokens)
    scale = x.abs().amax(1, keepdim=True) / 127.5
    rounded = torch.round(x / scale).clamp(-128, 127) * scale
    assert torch.equal(hessians["model.layers.0.self_attn.k_proj"], rounded.t() @ rounded)


@pytest.mark.parametrize("name", ["w3a16_g32", "w4a8_channel", "w8a8_static"])
def test_freezing_gives_the_weights_and_beats_rounding(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor, name: str
) -> None:
    scheme = preset(name)
    batches = [{"input_ids": tokens}, {"input_ids": tokens.flip(0, 1)}]
    errors, float_logits = {}, llama()(tokens).logits
    for algorithm in (RTN(MSE()), GPTQ(MSE())):
        model = llama()
        prepare(model, scheme, observer=MinMax())
        algorithm.run(model, batches)
        if scheme.has_static_activations:
            calibrate(model, batches, MinMax())
        frozen = QuantizedCheckpoint.freeze(model, scheme)
        if isinstance(algorithm, GPTQ):
            for host_name, host in hosts(model).items():
                assert torch.equal(frozen.weights[host_name].grid.value(), host.weight), host_name
        errors[type(algorithm)] = (model(tokens).logits - float_logits).square().sum().item()
    assert errors[GPTQ] < errors[RTN]
