"""A value of a wrong type, in one line: the value, what is allowed, what to write.

Pydantic and OmegaConf find it; their own words name their classes, and none says what to type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, StringNode
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException
from omegaconf.errors import ValidationError as WrongType
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from qat.errors import InputError, nearest

_KINDS = {
    "int": ("a whole number", "{key}=1"),
    "float": ("a number", "{key}=1.5"),
    "bool": ("true or false", "{key}=true"),
    "string": ("text", "'{key}=\"...\"'"),
    "list": ("a list", "'{key}=[...,...]'"),
    "tuple": ("a list", "'{key}=[...,...]'"),
    "dict": ("names with values", "+{key}.<name>=<value>"),
    "options": ("names with values", "{key}.<name>=<value>"),
    "none": ("null", "{key}=null"),
}
"""First word of pydantic's kind of an error -> what is allowed, and how it is written."""
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
_NODES = {IntegerNode: "int", FloatNode: "float", BooleanNode: "bool", StringNode: "string", ListConfig: "list"}


def of_option(key: str, value: object, error: ValidationError) -> InputError:
    """What pydantic found in ``value`` of the option ``key``; of a union, what each member allows."""
    details = error.errors(include_url=False)
    depth = max(len(_place(value, detail["loc"])) for detail in details)
    details = [detail for detail in details if len(_place(value, detail["loc"])) == depth]
    place = _place(value, details[0]["loc"])
    items = "".join(f"item {part} of " for part in reversed(place) if isinstance(part, int))
    key = ".".join([key, *(part for part in place if isinstance(part, str))])
    wrong = details[0]["input"]
    allowed = " or ".join(dict.fromkeys(map(_allowed, details)))
    names = [name for detail in details for name in _names(detail)]
    if hint := nearest(wrong, names) if isinstance(wrong, str) else "":
        return InputError(f"{items}{key}={_shown(wrong)}: allowed is {allowed}{hint}")
    written = next((f"; write {how.format(key=key)}" for detail in details if (how := _written(detail))), "")
    return InputError(f"{items}{key}={_shown(wrong)}: allowed is {allowed}{'' if items else written}")


def of_node(error: OmegaConfBaseException) -> InputError | None:
    """What OmegaConf refuses to put into a node of the config; None if the error is another."""
    parent, key = error.parent_node, str(error.full_key)
    if not isinstance(error, ConfigTypeError | WrongType):
        return None
    if isinstance(error, ConfigTypeError) and error.key is None:  # of a merge, whose value it does not keep
        node, value = parent, "names with values" if isinstance(parent, ListConfig) else "a list"
        given = f"{key} is given {value}"
    else:
        node = parent._get_node(error.key) if isinstance(parent, DictConfig) else None
        given = f"{key}={_shown(getattr(error, 'value', None))}"
    kind = "dict" if isinstance(node, DictConfig) else _NODES.get(type(node), "")  # type: ignore[call-overload]
    if not kind:
        return None
    if kind == "dict" and error.object_type is not dict:
        kind = "options"
    allowed, how = _KINDS[kind]
    return InputError(f"{given}: allowed is {allowed}; write {how.format(key=key)}")


def _place(value: object, path: Sequence[int | str]) -> list[int | str]:
    """The keys and places of ``path``, in which pydantic names the members of a union as well."""
    place: list[int | str] = []
    for part in path:
        held = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {}
        if part in held:  # else it is a member of a union, or what is missing
            value = held[part]
            place.append(part)
    return place


def _allowed(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"one with an item {detail['loc'][-1]}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind in _BOUNDS:
        return f"a number {_BOUNDS[kind]} {next(iter(context.values())):g}"
    if (word := _word(kind)) is not None:
        return _KINDS[word][0]
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _names(detail: ErrorDetails) -> list[str]:
    return detail.get("ctx", {}).get("expected", "").split("'")[1::2]


def _written(detail: ErrorDetails) -> str:
    if names := _names(detail):
        return "{key}=" + names[0]
    word = _word(detail["type"])
    return "" if word is None else _KINDS[word][1]


def _word(kind: str) -> str | None:
    """``int_from_float`` -> ``int``; None for what is no matter of the type."""
    word, _, rest = kind.partition("_")
    return word if word in _KINDS and rest in ("type", "parsing", "from_float", "required") else None


def _shown(value: Any) -> str:
    """As one types it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
