"""Check a composed config against what its components really take, and build them.

A component's ``_target_`` must be a class or function that a module of its own group's package defines (see
:data:`qat.config.schema.COMPONENTS`); that of a component nested in another must lie in one of these. No
config, recipe or override can reach any other name. Options must be keyword arguments of the target, with
values of the annotated types: the signature is the only description of a component, and a mistake is reported
by its key before anything slow begins.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from qat.config.explain import explain, how_to_pick, unknown_key
from qat.config.schema import COMPONENTS, NAMED_COMPONENTS, RunConfig
from qat.config.wrong_type import of_option
from qat.errors import InputError

S = TypeVar("S")
_PACKAGES = tuple(sorted({*COMPONENTS.values(), *NAMED_COMPONENTS.values()}))


def check(config: DictConfig) -> RunConfig:
    """A run's config as plain Python objects, after every key, value and target was checked.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    run = check_as(RunConfig, config)
    _check_bounds("expect", run.expect)
    return run


def check_as(schema: type[S], config: DictConfig) -> S:
    """:func:`check` for a command with a schema of its own.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    settings = _to_object(schema, config)
    for key, node, package in components(settings):
        _check_node(key, node, package)
    return settings


def _to_object(schema: type[S], config: DictConfig) -> S:
    """Resolve everything; nothing may be missing, unknown, or of another type than the schema's."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise InputError(f"{missing[0]} has no value; give it as {missing[0]}=<value>")
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(settings, schema)
    _refuse_unknown("", config, settings)
    return settings


def _refuse_unknown(prefix: str, config: DictConfig, schema: Any) -> None:
    """``+key=value`` gets past Hydra's own check of the keys."""
    known = [field.name for field in fields(schema)]
    for key in config:
        if key not in known:
            raise unknown_key(f"{prefix}{key!s}", known)
        if is_dataclass(inner := getattr(schema, str(key))):
            _refuse_unknown(f"{key}.", config[key], inner)


def components(settings: object) -> Iterator[tuple[str, Any, str]]:
    """Every component of a checked config: its key, its node and the package that its target must be in."""
    for key, package in COMPONENTS.items():
        if (node := getattr(settings, key, None)) is not None:
            yield key, node, package
    for key, package in NAMED_COMPONENTS.items():
        named = reduce(lambda node, name: getattr(node, name, None), key.split("."), settings)
        if isinstance(named, Mapping):  # `qat serve` names one export, and gives no component for it
            for name, node in named.items():
                yield f"{key}.{name}", node, package


def instantiate(node: Mapping[str, Any], key: str, **given: Any) -> Any:
    """Call the target of a component with its options, nested components first.

    Args:
        node: the component, as :func:`check` returns it.
        key: where it sits in the config, for messages and to know which targets are allowed.
        given: arguments that come from the program and not from the config.

    Raises:
        InputError: as :func:`check`.
    """
    groups = COMPONENTS | NAMED_COMPONENTS
    packages = [package for group, package in groups.items() if f"{key}.".startswith(f"{group}.")]
    target, options = _check_node(key, node, *packages)
    for name, value in options.items():
        if _is_component(value):
            inner, inner_options = _check_node(f"{key}.{name}", value, *_PACKAGES)
            options[name] = inner(**inner_options)
    return target(**{**options, **given})


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _check_node(key: str, node: Any, *packages: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The target, and its options as the annotations make them (a list becomes a tuple)."""
    if not _is_component(node):
        raise InputError(f"{key}={node!r} is not a component; pick one, as in {how_to_pick(key)}")
    target = locate(key, node["_target_"], *packages)
    parameters = inspect.signature(target).parameters
    hints = _hints(target)
    options = {name: value for name, value in node.items() if name != "_target_"}
    for name, value in options.items():
        if name not in parameters:
            raise unknown_key(f"{key}.{name}", parameters)
        options[name] = _check_value(f"{key}.{name}", value, hints.get(name, Any))
    return target, options


def locate(key: str, target: object, *packages: str) -> Callable[..., Any]:
    """Import the class or function ``target``, if its own module lies in one of ``packages``.

    Raises:
        InputError: for any other name, also for one that a module of a package merely imports.
    """
    allowed = f"allowed are classes and functions of {', '.join(packages)}"
    if not isinstance(target, str) or not _inside(target, packages):
        raise InputError(f"{key}._target_={target!r} is not allowed; {allowed}")
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("qat."):
            raise InputError(f"{key}: {target} needs the package {error.name}; install it") from error
        raise InputError(f"{key}._target_={target!r} does not exist; {allowed}") from error
    found = getattr(module, name, None)
    home = getattr(found, "__module__", "")
    if name.startswith("_") or not callable(found) or not _inside(f"{home}.{name}", packages):
        raise InputError(f"{key}._target_={target!r} does not exist; {allowed}")
    return found


def _inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(target.__init__ if inspect.isclass(target) else target)


def _check_value(key: str, value: Any, hint: Any) -> Any:
    if _is_component(value):
        _check_node(key, value, *_PACKAGES)
        return value
    _refuse_hidden_target(key, value)
    try:
        return _validate(value, hint)
    except ValidationError as error:
        raise of_option(key, value, error) from None


def _validate(value: Any, hint: Any) -> Any:
    """Strict as JSON: no number from text, no truth from numbers; but 1e3 is an integer, a list a tuple."""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticUserError:  # types that bring their own config, such as dataclasses
        adapter = TypeAdapter(hint)
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        if isinstance(value, float) and value.is_integer():
            return adapter.validate_json(json.dumps(int(value)), strict=True)
        raise


def _refuse_hidden_target(key: str, value: Any) -> None:
    """A ``_target_`` deeper inside plain data would never be built; saying nothing would be a trap."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        if name == "_target_":
            raise InputError(f"{key}._target_={item!r} is not allowed here; an option itself can be a component")
        _refuse_hidden_target(f"{key}.{name}", item)


def _check_bounds(key: str, bounds: Any) -> None:
    """``expect`` ends in mappings of ``min`` and ``max`` to numbers."""
    if not isinstance(bounds, Mapping):
        raise InputError(f"{key}={bounds!r} is not a bound; write {key}.min=<number> or {key}.max=<number>")
    for name, value in bounds.items():
        if name not in ("min", "max"):
            _check_bounds(f"{key}.{name}", value)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{key}.{name}={value!r} is not a number")
