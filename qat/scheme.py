"""Schemes: what is quantized, and to what grid.

The groups are compressed-tensors' own ``QuantizationScheme``; this module adds the format of the scales, presets
(one YAML each in ``configs/scheme``) and the matching of groups to the modules of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStrategy
from compressed_tensors.utils.match import match_name
from pydantic import ValidationError
from torch import nn

from qat import grid
from qat.errors import InputError, nearest
from qat.paths import configs_dir

_WEIGHT_STRATEGIES = ("tensor", "channel", "group")
_INPUT_STRATEGIES = ("token", "tensor")


@dataclass(frozen=True)
class Scheme:
    """What is quantized, and to what grid.

    Args:
        config_groups: name -> ``QuantizationScheme`` (or the mapping it is made from) with ``targets``, ``weights``,
            ``input_activations``. Targets are class names (``Linear``, ``Embedding``), full module names or ``re:``
            patterns; the most specific match wins. Class names do not reach the output head: name it to quantize it.
        ignore: targets that stay float.
        scale_format: how weight scales are rounded and stored, see :func:`qat.grid.scale_format`.
        group_fallback: ``channel`` gives layers that the group size does not divide one scale a channel; None makes
            such a layer an error.

    Raises:
        InputError: nothing to quantize, bits outside 2..8, or a strategy, type or scale format that is not supported.

    Example:
        >>> Scheme({"all": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}}})
    """

    config_groups: Mapping[str, Any]
    ignore: list[str] = field(default_factory=list)
    scale_format: str = "bf16"
    group_fallback: Literal["channel"] | None = None

    def __post_init__(self) -> None:
        if not self.config_groups:
            raise InputError("scheme.config_groups is empty, so nothing would be quantized; name at least one group")
        groups = {name: _parse_group(name, group) for name, group in self.config_groups.items()}
        object.__setattr__(self, "config_groups", groups)
        for name, group in groups.items():
            if group.weights is None:
                raise InputError(f"scheme group '{name}' has no weights; activations alone are not supported")
            _check_weights(name, group.weights)
            grid.scale_format(self.scale_format, group.weights.num_bits, group.weights.symmetric)
            if group.input_activations is not None:
                _check_inputs(name, group.input_activations)

    @property
    def has_static_activations(self) -> bool:
        """Whether some input activation needs a calibrated or learned range."""
        inputs = (group.input_activations for group in self.config_groups.values())
        return any(args is not None and not args.dynamic for args in inputs)

    @property
    def weight_bits(self) -> int:
        """Largest number of bits of any weight group: a schedule must come down to it."""
        return max(int(group.weights.num_bits) for group in self.config_groups.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``Scheme(**scheme.to_dict())`` is equal to the scheme."""
        groups = {name: group.model_dump(mode="json") for name, group in self.config_groups.items()}
        return {
            "config_groups": groups,
            "ignore": list(self.ignore),
            "scale_format": self.scale_format,
            "group_fallback": self.group_fallback,
        }


def preset(name: str) -> Scheme:
    """The scheme of ``configs/scheme/<name>.yaml``.

    Raises:
        InputError: no such preset.

    Example:
        >>> preset("w4a16_g32").config_groups["weights"].weights.num_bits
        4
    """
    names = sorted(path.stem for path in (configs_dir() / "scheme").glob("*.yaml"))
    if name not in names:
        raise InputError(f"scheme '{name}' is not one of {', '.join(names)}{nearest(name, names)}")
    options = yaml.safe_load((configs_dir() / "scheme" / f"{name}.yaml").read_text())
    options.pop("_target_")
    return Scheme(**options)


def match(scheme: Scheme, model: nn.Module, heads: set[str]) -> dict[str, QuantizationScheme]:
    """Find the group of every module: full name -> its group, with any group fallback applied.

    Args:
        scheme: what to look for.
        model: its ``nn.Linear`` and ``nn.Embedding`` modules are the candidates.
        heads: full names of output heads, which class-name targets do not reach.

    Raises:
        InputError: a target or ``ignore`` entry that matches nothing, an input quantizer for an embedding, or a group
            size that does not divide a layer's input, which is named.
    """
    used: set[str] = set()
    matched: dict[str, QuantizationScheme] = {}
    candidates = dict(_candidates(model))
    for name, module in candidates.items():
        ignored = [target for target in scheme.ignore if _matches(name, module, target, heads)]
        used.update(ignored)
        found = _find_group(scheme, name, module, heads, used)
        if found is not None and not ignored:
            matched[name] = _fit(found, name, module, scheme.group_fallback)
    targets = [target for group in scheme.config_groups.values() for target in group.targets]
    for target in [*targets, *scheme.ignore]:
        if target not in used:
            hint = nearest(target, [*candidates, "Linear", "Embedding"])
            raise InputError(
                f"target '{target}' of the scheme matches no Linear or Embedding of {type(model).__name__}{hint}"
            )
    if not matched:
        raise InputError(f"the scheme ignores every module it targets in {type(model).__name__}: nothing to quantize")
    return matched


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            yield name, module


def _matches(name: str, module: nn.Module, target: str, heads: set[str]) -> bool:
    if match_name(name, target):
        return True
    return name not in heads and any(cls.__name__ == target for cls in type(module).__mro__)


def _find_group(
    scheme: Scheme, name: str, module: nn.Module, heads: set[str], used: set[str]
) -> QuantizationScheme | None:
    """The most specific group: full name before pattern before class name, as compressed-tensors resolves them."""
    best: tuple[int, QuantizationScheme | None] = (3, None)
    for group in scheme.config_groups.values():
        for target in group.targets:
            if _matches(name, module, target, heads):
                used.add(target)
                rank = 0 if target == name else 1 if target.startswith("re:") else 2
                best = min(best, (rank, group), key=lambda pair: pair[0])
    return best[1]


def _fit(
    group: QuantizationScheme, name: str, module: nn.Module, fallback: Literal["channel"] | None
) -> QuantizationScheme:
    """Check that ``group`` suits the module; apply the group fallback where it is needed."""
    if isinstance(module, nn.Embedding) and group.input_activations is not None:
        raise InputError(f"{name} is an embedding: its input is token ids, so it cannot have input_activations")
    weights = group.weights
    if weights is None or weights.strategy != QuantizationStrategy.GROUP:
        return group
    columns = module.get_parameter("weight").shape[1]
    if columns % weights.group_size == 0:
        return group
    if fallback is None:
        raise InputError(
            f"group_size {weights.group_size} does not divide the {columns} inputs of {name}; choose a divisor of "
            f"{columns}, ignore the layer, or set scheme.group_fallback=channel"
        )
    channel = weights.model_copy(update={"strategy": QuantizationStrategy.CHANNEL.value, "group_size": None})
    return group.model_copy(update={"weights": channel})


def _parse_group(name: str, group: QuantizationScheme | Mapping[str, Any]) -> QuantizationScheme:
    if isinstance(group, QuantizationScheme):
        return group
    try:
        return QuantizationScheme(**group)
    except (ValidationError, NotImplementedError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, first["loc"])) if first else ""
        message = first["msg"] if first else str(error)
        raise InputError(f"scheme.config_groups.{name}{'.' + where if where else ''}: {message}") from None


def _check_weights(name: str, args: QuantizationArgs) -> None:
    _check_integer(f"scheme group '{name}' weights", args, _WEIGHT_STRATEGIES)
    if args.dynamic:
        raise InputError(
            f"scheme group '{name}' weights: dynamic=true is for activations only; write "
            f"++scheme.config_groups.{name}.weights.dynamic=false"
        )


def _check_inputs(name: str, args: QuantizationArgs) -> None:
    _check_integer(f"scheme group '{name}' input_activations", args, _INPUT_STRATEGIES)


def _check_integer(what: str, args: QuantizationArgs, strategies: tuple[str, ...]) -> None:
    if args.type != "int":
        raise InputError(f"{what}: type is '{args.type}'; only int grids are supported")
    if args.strategy not in strategies:
        raise InputError(f"{what}: strategy is '{args.strategy}'; allowed are {', '.join(strategies)}")
    try:
        grid.qrange(args.num_bits)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
