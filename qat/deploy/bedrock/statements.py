"""Read a policy document: which actions it allows, on what, to whom, under which conditions.

Enough of IAM's language for the few lines that an import needs: Allow and Deny, wildcards, conditions of equality. A
document with ``NotAction``, ``NotResource`` or ``NotPrincipal`` is refused, and a condition that is not understood is
named in :attr:`Statement.unjudged`: nothing is guessed.
"""

from __future__ import annotations

import glob
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from qat.errors import InputError

_PATTERNS = ("StringLike", "ArnLike", "ArnEquals")  # to IAM the last two are the same
_LITERAL = "StringEquals"
_INVERTED = ("NotAction", "NotResource", "NotPrincipal")


@dataclass(frozen=True)
class Statement:
    """One statement; a single value is a tuple of one.

    Attributes:
        effect: ``Allow`` or ``Deny``.
        actions: patterns.
        resources: patterns of ARNs; none in a trust policy.
        principals: kind (``Service``, ``AWS``) -> names.
        conditions: key in small letters -> patterns of which one must fit.
        unjudged: conditions of other operators.
    """

    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    principals: dict[str, tuple[str, ...]]
    conditions: dict[str, tuple[str, ...]]
    unjudged: tuple[str, ...]

    def covers(self, action: str, resource: str | None = None) -> bool:
        """Whether it speaks of ``action``, on ``resource`` if one is given."""
        if not any(fnmatchcase(action.lower(), pattern.lower()) for pattern in self.actions):
            return False
        return resource is None or _fits(resource, self.resources)

    def names(self, kind: str, principal: str) -> bool:
        """Whether ``principal`` is among those of ``kind``, alone or with everybody."""
        return bool({principal, "*"} & {*self.principals.get(kind, ())})

    def beyond(self, wanted: Collection[str]) -> set[str]:
        """The conditions on other keys than ``wanted``, or by operators that are not understood."""
        return {*self.unjudged, *(self.conditions.keys() - {*wanted})}

    def misfit(self, wanted: dict[str, str | None]) -> str:
        """The condition that ``wanted`` (key -> value, None: unknown) does not meet; empty if it meets all."""
        for key, value in wanted.items():
            if value is not None and key in self.conditions and not _fits(value, self.conditions[key]):
                return f"{key} is {', '.join(self.conditions[key])}, not {value}"
        return ""


def statements(document: dict[str, Any]) -> tuple[Statement, ...]:
    """The statements of a policy document.

    Raises:
        InputError: it is no policy document, or says what it means by what it does not.
    """
    held: Any = document.get("Statement")
    parts: list[dict[str, Any]] = held if isinstance(held, list) else [held]
    if not parts or not all(isinstance(part, dict) and part.get("Effect") in ("Allow", "Deny") for part in parts):
        raise InputError("no policy document: it needs a Statement, each with Effect Allow or Deny")
    if inverted := [key for key in _INVERTED if any(key in part for part in parts)]:
        raise InputError(f"the policy has {inverted[0]}, which is not judged here")
    return tuple(map(_statement, parts))


def _statement(part: dict[str, Any]) -> Statement:
    principal = part.get("Principal") or {}
    named = {"AWS": "*", "Service": "*"} if principal == "*" else principal
    conditions: dict[str, tuple[str, ...]] = {}
    unjudged = []
    for operator, block in (part.get("Condition") or {}).items():
        for key, value in block.items():
            if operator == _LITERAL:
                conditions[key.lower()] = tuple(map(glob.escape, _many(value)))
            elif operator in _PATTERNS:
                conditions[key.lower()] = _many(value)
            else:
                unjudged.append(f"{operator} {key}")
    return Statement(
        effect=part["Effect"],
        actions=_many(part.get("Action")),
        resources=_many(part.get("Resource")),
        principals={kind: _many(value) for kind, value in named.items()},
        conditions=conditions,
        unjudged=tuple(unjudged),
    )


def _fits(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _many(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
