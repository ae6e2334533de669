from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from qat.deploy.words import given, word


@dataclass
class Options:
    text: str | None = None
    number: float = 1.0
    names: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


def test_only_what_was_given() -> None:
    assert given(Options()) == ()
    held = given(Options("s3://bucket/a", 2.5, ["a", "b"], {"team": "x"}))
    assert held == (
        "target.text=s3://bucket/a",
        "target.number=2.5",
        "'target.names=[a,b]'",
        "+target.tags.team=x",
    )


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 3, 0.5, ["a", "1"]),
        *("a", "s3://b/c", "arn:aws:iam::1:role/A", "/a b/c", "012345678901", "true", "null"),
        *("a,b", "it's", 'say "x"', "a(b)=c", "", "1e5", "-1", "../a"),
    ],
)
def test_a_shell_and_hydra_read_the_value_again(value: Any) -> None:
    (text,) = shlex.split(word("target.x", value))
    (override,) = OverridesParser.create().parse_overrides([text])
    read = override.value()
    read = [str(item) for item in read] if isinstance(read, list) else read
    assert (str(read) if isinstance(value, str) else read) == value
    assert override.key_or_group == "target.x"
