"""Prepare: swap a model's linears and embeddings for fake-quantized ones, as an extension of torchao.

:class:`LearnedQATConfig` is registered with torchao, so ``quantize_`` works alone::

    from torchao.quantization import quantize_
    from qat.prepare import LearnedQATConfig

    quantize_(model, LearnedQATConfig("w4a16_g32", step="prepare"))
    train(model)
    quantize_(model, LearnedQATConfig("w4a16_g32", step="convert"))  # torchao tensors with the learned scales

:func:`prepare` does the same for a whole model by the targets of a scheme, and reports every module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import quantize_
from torchao.quantization.qat import FakeQuantizedEmbedding, FakeQuantizedLinear
from torchao.quantization.transform_module import register_quantize_module_handler

from qat.convert import convert_module
from qat.errors import InputError
from qat.fake_quant import FakeQuantizeConfig, FakeQuantizer
from qat.fake_quant.base import Layout
from qat.fake_quant.dynamic import Dynamic
from qat.fake_quant.kv_cache import attach
from qat.fake_quant.lsq import LSQ
from qat.grid import group_count
from qat.hosts import Host
from qat.models.outputs import head_names, tied_groups
from qat.observers import Observer
from qat.observers.mse import MSE
from qat.prepare_report import ModuleRow, PrepareReport
from qat.scheme import Scheme, match, preset


@dataclass
class LearnedQATConfig(AOBaseConfig):  # type: ignore[misc]
    """torchao config that inserts fake quantizers with learnable ranges, and converts them.

    torchao's ``filter_fn`` picks the modules (by default every ``nn.Linear``), this config says what they become.
    Static activations have no range until :func:`qat.ptq.calibrate.calibrate` has seen data: call it before training.

    Args:
        scheme: a preset's name, a :class:`Scheme` of one group, or a compressed-tensors ``QuantizationScheme``.
        fake_quantizer: options of the quantizer of weights and static activations.
        observer: sets the first clip range of the weights.
        scale_format: for a bare ``QuantizationScheme``; a preset or ``Scheme`` brings its own.
        narrow_range: likewise.
        step: ``prepare`` before training, ``convert`` after it.

    Raises:
        InputError: a scheme of several groups or with a KV cache (use :func:`prepare`), an unknown preset or step.
    """

    scheme: str | Scheme | QuantizationScheme
    fake_quantizer: FakeQuantizeConfig = field(default_factory=LSQ)
    observer: Observer = field(default_factory=MSE)
    scale_format: str = "bf16"
    narrow_range: bool = False
    step: Literal["prepare", "convert"] = "prepare"

    def __post_init__(self) -> None:
        if self.step not in ("prepare", "convert"):
            raise InputError(f"step is '{self.step}'; allowed are prepare, convert")
        if isinstance(self.scheme, str):
            self.scheme = preset(self.scheme)
        if isinstance(self.scheme, Scheme):
            groups = list(self.scheme.config_groups.values())
            if len(groups) != 1:
                raise InputError(f"the scheme has {len(groups)} groups; quantize_ takes one, use qat.prepare.prepare")
            if self.scheme.kv_cache is not None:
                raise InputError("the scheme has a kv_cache, and quantize_ sees no attention; use qat.prepare.prepare")
            self.scale_format, self.narrow_range = self.scheme.scale_format, self.scheme.narrow_range
            self.scheme = groups[0]


@register_quantize_module_handler(LearnedQATConfig)
def _learned_qat_transform(module: nn.Module, config: LearnedQATConfig) -> nn.Module:
    if config.step == "convert":
        return convert_module(module)
    assert isinstance(config.scheme, QuantizationScheme)
    host = make_host(module)
    weights, inputs = config.scheme.weights, config.scheme.input_activations
    assert weights is not None
    layout = Layout(*group_count(tuple(host.weight.shape), weights), narrow_range=config.narrow_range)
    quantizer = config.fake_quantizer.build(weights, layout, config.scale_format).to(host.weight.device)
    if quantizer.narrow_range != config.narrow_range:
        raise InputError(
            f"fake_quantizer {type(config.fake_quantizer).__name__} has no narrow range; pick another, such as "
            "fake_quantizer=lsq, or set scheme.narrow_range=false"
        )
    quantizer.init_range(config.observer, host.weight)
    host.weight_fake_quantizer = quantizer
    if inputs is not None:
        quantizer = activation_quantizer(inputs, config.fake_quantizer)
        host.activation_fake_quantizer = quantizer.to(host.weight.device)
    host.quantization_scheme = config.scheme
    return host


def activation_quantizer(args: QuantizationArgs, options: FakeQuantizeConfig) -> FakeQuantizer:
    """The fake quantizer of an input activation; ``options`` are of static ones, and of dynamic ones where they have a
    quantizer for these."""
    chosen = Dynamic() if args.dynamic and not options.builds_dynamic else options
    return chosen.build(args, Layout(1, 1, activation=True), "fp32")


def make_host(module: nn.Module) -> Host:
    """An empty torchao host with the module's own parameters: nothing is copied and no random number is drawn."""
    if isinstance(module, Host):
        raise InputError("the module is prepared already; prepare a model once")
    if type(module) is nn.Linear:
        host: Host = FakeQuantizedLinear(
            module.in_features, module.out_features, module.bias is not None, device="meta"
        )
        host.bias = module.bias
    elif isinstance(module, nn.Embedding):
        host = FakeQuantizedEmbedding(
            module.num_embeddings, module.embedding_dim, module.padding_idx, module.max_norm,
            module.norm_type, module.scale_grad_by_freq, module.sparse, device="meta",
        )  # fmt: skip
        # Some models scale their embedding (Gemma): a plain host would drop that.
        if type(module).forward is not nn.Embedding.forward:
            raise InputError(f"{type(module).__name__} has a forward pass of its own; leave it out of the scheme")
    else:
        raise InputError(f"{type(module).__name__} cannot be fake-quantized; allowed are nn.Linear and nn.Embedding")
    host.weight = module.weight
    return host.train(module.training)


def prepare(
    model: nn.Module,
    scheme: Scheme,
    fake_quantizer: FakeQuantizeConfig | None = None,
    observer: Observer | None = None,
) -> PrepareReport:
    """Insert the fake quantizers of ``scheme`` into ``model``, in place.

    Quantizing one of two tied weights quantizes both with one quantizer, so they stay tied.

    Args:
        model: a transformers model, or any module.
        scheme: what to quantize.
        fake_quantizer: default LSQ.
        observer: sets the first weight ranges; default MSE search.

    Returns:
        What was quantized, what was not, and why.

    Raises:
        InputError: a target that matches nothing, a group size that does not fit, tied weights on different grids or
            with quantized inputs.
    """
    heads = head_names(model)
    matched = match(scheme, model, heads)
    groups: list[tuple[QuantizationScheme, list[str]]] = []
    for name, group in matched.items():
        known = next((names for other, names in groups if other == group), None)
        if known is None:
            groups.append((group, [name]))
        else:
            known.append(name)
    before = _rows_before(model)
    ties = tied_groups(model)
    for group, names in groups:
        config = LearnedQATConfig(
            group, fake_quantizer or LSQ(), observer or MSE(), scheme.scale_format, scheme.narrow_range
        )
        chosen = set(names)
        quantize_(model, config, filter_fn=lambda _, name: name in chosen)  # noqa: B023 (called at once)
    reasons = _tie_quantizers(model, ties)
    caches = [] if scheme.kv_cache is None else _round_cache(model, scheme.kv_cache, fake_quantizer or LSQ())
    return PrepareReport(_rows(model, before, heads, reasons), caches, scheme.kv_cache)


def _round_cache(model: nn.Module, args: QuantizationArgs, options: FakeQuantizeConfig) -> list[str]:
    """Give keys and values their quantizers, of ``options`` where they are static; returns the attentions' names."""
    chosen, layout = Dynamic() if args.dynamic else options, Layout(1, 1, activation=True)

    def build(name: str) -> tuple[FakeQuantizer, FakeQuantizer]:
        device = next(model.get_submodule(name).parameters()).device
        return chosen.build(args, layout, "fp32").to(device), chosen.build(args, layout, "fp32").to(device)

    return attach(model, build)


def _tie_quantizers(model: nn.Module, ties: list[list[str]]) -> dict[str, str]:
    """Give modules with one weight one weight quantizer; returns why each follower was quantized."""
    reasons: dict[str, str] = {}
    for parameter_names in ties:
        names = [name.removesuffix(".weight") for name in parameter_names if name.endswith(".weight")]
        modules = {name: model.get_submodule(name) for name in names}
        owners = {name: module for name, module in modules.items() if isinstance(module, Host)}
        if not owners or len(names) < 2:
            continue
        first, owner = next(iter(owners.items()))
        shared, weights_only = owner.weight_fake_quantizer, {"input_activations": None}
        for name, other in owners.items():
            if other.weight_fake_quantizer.args != shared.args:
                raise InputError(f"{name} and {first} share one weight but have different grids; give them the same")
            if getattr(other, "activation_fake_quantizer", None) is not None:
                others = " and ".join(sorted(modules.keys() - {name}))
                raise InputError(
                    f"{name} shares its weight with {others}, and a tied weight is stored without input_activations; "
                    "leave them out of its group"
                )
        for name, module in modules.items():
            host = owners.get(name)
            if host is None:
                host = make_host(module)
                host.quantization_scheme = owner.quantization_scheme.model_copy(update=weights_only)
                model.set_submodule(name, host)
                reasons[name] = f"tied to {first}"
            host.weight_fake_quantizer = shared
    return reasons


def _rows_before(model: nn.Module) -> list[tuple[str, str, int]]:
    """Name, class and own parameters of every module that has some; a shared parameter counts once."""
    seen: set[int] = set()
    rows = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        fresh = [p for p in own if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if own:
            rows.append((name, type(module).__name__, sum(p.numel() for p in fresh)))
    return rows


def _rows(
    model: nn.Module,
    before: list[tuple[str, str, int]],
    heads: set[str],
    reasons: dict[str, str],
) -> list[ModuleRow]:
    rows = []
    for name, kind, parameters in before:
        module = model.get_submodule(name)
        if isinstance(module, Host):
            why = reasons.get(name, "")
            rows.append(ModuleRow(name, kind, parameters, module.quantization_scheme, why))
        else:
            rows.append(ModuleRow(name, kind, parameters, None, _why_left(name, kind, heads)))
    return rows


def _why_left(name: str, kind: str, heads: set[str]) -> str:
    if kind not in ("Linear", "Embedding"):
        return "has no grid"
    return "output head, not named" if name in heads else "not targeted, or ignored"
