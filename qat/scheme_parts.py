"""The parts of a scheme, which are compressed-tensors' own types: parsed, and held to what qat can train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStrategy
from pydantic import ValidationError

from qat import grid
from qat.errors import InputError

T = TypeVar("T")

_WEIGHT_STRATEGIES = ("tensor", "channel", "group")
_INPUT_STRATEGIES = ("token", "tensor")


def parse_group(name: str, group: QuantizationScheme | Mapping[str, Any]) -> QuantizationScheme:
    """The group ``name`` of a scheme.

    Raises:
        InputError: compressed-tensors refuses it, with the key.
    """
    if isinstance(group, QuantizationScheme):
        return group
    return _parse(QuantizationScheme, group, f"scheme.config_groups.{name}")


def parse_kv_cache(given: QuantizationArgs | Mapping[str, Any]) -> QuantizationArgs:
    """How keys and values are rounded.

    Raises:
        InputError: compressed-tensors refuses it, or it is no grid that a cache has.
    """
    if not isinstance(given, QuantizationArgs | Mapping):
        raise InputError(f"scheme.kv_cache is {given!r}; give it num_bits, strategy and dynamic, or null")
    args = given if isinstance(given, QuantizationArgs) else _parse(QuantizationArgs, given, "scheme.kv_cache")
    _check_integer("scheme.kv_cache", args, _INPUT_STRATEGIES)
    if not args.symmetric:
        raise InputError("scheme.kv_cache: symmetric is false; no engine has zero points in its cache: set it to true")
    if bool(args.dynamic) != (args.strategy == QuantizationStrategy.TOKEN):
        raise InputError(
            f"scheme.kv_cache: strategy '{args.strategy}' with dynamic: {str(bool(args.dynamic)).lower()}; allowed are "
            "strategy: token with dynamic: true, and strategy: tensor with dynamic: false"
        )
    return args


def check_weights(name: str, args: QuantizationArgs) -> None:
    """Return if weights can be rounded as ``args`` say.

    Raises:
        InputError: they cannot; ``name`` is the group's.
    """
    _check_integer(f"scheme group '{name}' weights", args, _WEIGHT_STRATEGIES)
    if args.dynamic:
        raise InputError(
            f"scheme group '{name}' weights: dynamic=true is for activations only; write "
            f"++scheme.config_groups.{name}.weights.dynamic=false"
        )


def check_inputs(name: str, args: QuantizationArgs) -> None:
    """Return if input activations can be rounded as ``args`` say.

    Raises:
        InputError: they cannot; ``name`` is the group's.
    """
    _check_integer(f"scheme group '{name}' input_activations", args, _INPUT_STRATEGIES)


def _parse(kind: Callable[..., T], values: Mapping[str, Any], key: str) -> T:
    """One of compressed-tensors' own types; what it refuses is said of ``key``."""
    try:
        return kind(**values)
    except (ValidationError, NotImplementedError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, first["loc"])) if first else ""
        message = first["msg"] if first else str(error)
        raise InputError(f"{key}{'.' + where if where else ''}: {message}") from None


def _check_integer(what: str, args: QuantizationArgs, strategies: tuple[str, ...]) -> None:
    if args.type != "int":
        raise InputError(f"{what}: type is '{args.type}'; only int grids are supported")
    if args.strategy not in strategies:
        raise InputError(f"{what}: strategy is '{args.strategy}'; allowed are {', '.join(strategies)}")
    try:
        grid.qrange(args.num_bits)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
