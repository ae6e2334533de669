from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, TypeAdapter, ValidationError

from qat.config import wrong_type


def said_of(hint: Any, value: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(hint).validate_python(value, strict=True)
    return str(wrong_type.of_option("a.b", value, raised.value))


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int, "x", "a.b=x: allowed is a whole number; write a.b=1"),
        (float, [1], "a.b=[1]: allowed is a number; write a.b=1.5"),
        (str, True, "a.b=true: allowed is text; write 'a.b=\"...\"'"),
        (bool, None, "a.b=null: allowed is true or false; write a.b=true"),
        (list[int], {"c": 1}, "a.b={\"c\": 1}: allowed is a list; write 'a.b=[...,...]'"),
        (dict[str, str], 1, "a.b=1: allowed is names with values; write +a.b.<name>=<value>"),
        (dict[str, str], {"c": 1}, "a.b.c=1: allowed is text; write 'a.b.c=\"...\"'"),
        (list[int], [1, "x"], "item 1 of a.b=x: allowed is a whole number"),
        (int | Literal["auto"], "atuo", "a.b=atuo: allowed is a whole number or auto; did you mean 'auto'?"),
        (str | list[str], [1], "item 0 of a.b=1: allowed is text"),
        (Literal["on", "off"], 3, "a.b=3: allowed is on or off; write a.b=on"),
        (Annotated[int, Field(gt=2)], 2, "a.b=2: allowed is a number above 2"),
        (Annotated[int, Field(le=2)], 3, "a.b=3: allowed is a number at most 2"),
    ],
)
def test_an_option(hint: Any, value: Any, said: str) -> None:
    assert said_of(hint, value) == said


def test_a_library_that_says_more_is_quoted() -> None:
    said = said_of(Annotated[str, Field(min_length=2)], "x")
    assert said == "a.b=x: allowed is string should have at least 2 characters"


def test_an_error_that_is_not_of_a_type_is_left_to_others() -> None:
    config = OmegaConf.create({"a": "${nowhere}"})
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert wrong_type.of_node(raised.value) is None
