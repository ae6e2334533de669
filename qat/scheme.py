"""Schemes: what is quantized, and to what grid.

The groups are compressed-tensors' own ``QuantizationScheme``; this module adds the format of the scales, presets
(one YAML each in ``configs/scheme``) and the matching of groups to the modules of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from compressed_tensors.quantization import QuantizationScheme, QuantizationStrategy
from compressed_tensors.utils.match import match_name
from torch import nn

from qat import grid
from qat.errors import InputError, nearest
from qat.paths import configs_dir
from qat.scheme_parts import check_inputs, check_weights, parse_group, parse_kv_cache

HEAD = "head"
"""Target that is the output head, whatever a model calls it."""


@dataclass(frozen=True)
class Scheme:
    """What is quantized, and to what grid.

    Args:
        config_groups: name -> ``QuantizationScheme`` (or the mapping it is made from) with ``targets``, ``weights``,
            ``input_activations``. Targets are class names (``Linear``, ``Embedding``), full module names or ``re:``
            patterns; the most specific match wins. Class names do not reach the output head: ``head`` does, whatever
            the model calls it, as its name does.
        ignore: targets that stay float.
        scale_format: how weight scales are rounded and stored, see :func:`qat.grid.scale_format`.
        group_fallback: ``channel`` gives layers that the group size does not divide one scale a channel; None makes
            such a layer an error.
        narrow_range: leave out the lowest code of every weight, see :func:`qat.grid.qrange`; with 2 bits the weights
            are ternary. Of symmetric grids only.
        kv_cache: ``QuantizationArgs`` (or the mapping it is made from) of the keys and values of every attention with
            a cache, symmetric: dynamic ``token`` (each token of each head has its own scale) or static ``tensor`` (one
            calibrated or learned range each for the keys and the values of a layer). None leaves them float.

    Raises:
        InputError: nothing to quantize, bits outside 2..8, a strategy, type or scale format that is not supported, or
            a narrow range of an asymmetric grid.

    Example:
        >>> Scheme({"all": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}}})
    """

    config_groups: Mapping[str, Any]
    ignore: list[str] = field(default_factory=list)
    scale_format: str = "bf16"
    group_fallback: Literal["channel"] | None = None
    narrow_range: bool = False
    kv_cache: Any = None

    def __post_init__(self) -> None:
        if not self.config_groups:
            raise InputError("scheme.config_groups is empty, so nothing would be quantized; name at least one group")
        groups = {name: parse_group(name, group) for name, group in self.config_groups.items()}
        object.__setattr__(self, "config_groups", groups)
        for name, group in groups.items():
            if group.weights is None:
                raise InputError(f"scheme group '{name}' has no weights; activations alone are not supported")
            check_weights(name, group.weights)
            if self.narrow_range and not group.weights.symmetric:
                raise InputError(
                    f"scheme group '{name}' has asymmetric weights, and narrow_range is of symmetric ones; "
                    "set symmetric: true or narrow_range: false"
                )
            grid.scale_format(self.scale_format, group.weights.num_bits, group.weights.symmetric)
            if group.input_activations is not None:
                check_inputs(name, group.input_activations)
        if self.kv_cache is not None:
            object.__setattr__(self, "kv_cache", parse_kv_cache(self.kv_cache))

    @property
    def has_static_activations(self) -> bool:
        """Whether some input activation, or the KV cache, needs a calibrated or learned range."""
        inputs = (group.input_activations for group in self.config_groups.values())
        return any(args is not None and not args.dynamic for args in (*inputs, self.kv_cache))

    @property
    def rounds_activations(self) -> bool:
        """Whether more than weights is rounded: input activations, or keys and values."""
        inputs = (group.input_activations for group in self.config_groups.values())
        return any(args is not None for args in (*inputs, self.kv_cache))

    @property
    def weight_bits(self) -> int:
        """Largest number of bits of any weight group: a schedule must come down to it."""
        return max(int(group.weights.num_bits) for group in self.config_groups.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``Scheme(**scheme.to_dict())`` is equal to the scheme.

        Options that were added later are there only where they are set: other schemes are written as ever.
        """
        groups = {name: group.model_dump(mode="json") for name, group in self.config_groups.items()}
        values: dict[str, Any] = {
            "config_groups": groups,
            "ignore": list(self.ignore),
            "scale_format": self.scale_format,
            "group_fallback": self.group_fallback,
        }
        if self.narrow_range:
            values["narrow_range"] = True
        if self.kv_cache is not None:
            values["kv_cache"] = self.kv_cache.model_dump(mode="json")
        return values


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
        heads: full names of output heads, which the target ``head`` reaches and class names do not.

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
            hint = nearest(target, [*candidates, "Linear", "Embedding", HEAD])
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
    if match_name(name, target) or (target == HEAD and name in heads):
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
                rank = 0 if target in (name, HEAD) else 1 if target.startswith("re:") else 2
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
