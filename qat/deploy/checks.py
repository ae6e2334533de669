"""The result of a preflight: one check for each rule of a host, as JSON and as a table of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec

from pydantic import BaseModel, ConfigDict, model_validator
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qat.deploy.pushed import write_whole
from qat.errors import InputError

P = ParamSpec("P")
Status = Literal["pass", "warn", "fail", "not_run"]

_LOOK: dict[Status, tuple[str, str]] = {
    "pass": ("pass", "green"),
    "warn": ("WARN", "bold yellow"),
    "fail": ("FAIL", "bold red"),
    "not_run": ("NOT RUN", "bold magenta"),
}

_ORDER: tuple[Status, ...] = ("not_run", "warn", "fail")
"""Rows of a table: what needs doing most is last, next to the verdict."""


class Check(BaseModel):
    """What one rule found.

    Attributes:
        rule: ``<host>.<number>.<what>``, stable: ``bedrock.1.architecture``.
        name: what is checked, in words.
        status: ``not_run`` where the rule could not be tried: never a pass.
        found: what the folder has; of ``not_run`` the reason.
        allowed: what the host takes.
        fix: what to do; empty only on a pass.
        source: who says that this is a rule.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    name: str
    status: Status
    found: str
    allowed: str
    fix: str = ""
    source: str

    @model_validator(mode="after")
    def _has_fix(self) -> Check:
        if self.status != "pass" and not self.fix:
            raise ValueError(f"{self.rule} is {self.status} without a fix")
        return self


@dataclass(frozen=True)
class Rule:
    """A rule of a host, which makes its checks.

    Example:
        >>> rule = Rule("bedrock.3.context", "Context length", "at most 131072 tokens", "A1")
        >>> rule.failed("200000", "import a model with a shorter context").status
        'fail'
    """

    rule: str
    name: str
    allowed: str
    source: str

    def passed(self, found: str) -> Check:
        """The host takes it."""
        return self._check("pass", found)

    def warned(self, found: str, fix: str) -> Check:
        """The host may take it, or takes it otherwise than one would think."""
        return self._check("warn", found, fix)

    def failed(self, found: str, fix: str) -> Check:
        """The host refuses it, or computes something else."""
        return self._check("fail", found, fix)

    def not_run(self, reason: str, fix: str) -> Check:
        """It could not be tried here."""
        return self._check("not_run", reason, fix)

    def unless(self, problem: str, fix: str, found: str) -> Check:
        """Failed with ``problem`` where there is one, else passed with ``found``."""
        return self.failed(problem, fix) if problem else self.passed(found)

    def _check(self, status: Status, found: str, fix: str = "") -> Check:
        return Check(
            rule=self.rule,
            name=self.name,
            status=status,
            found=found,
            allowed=self.allowed,
            fix=fix,
            source=self.source,
        )


def rule(
    identifier: str, name: str, allowed: str, source: str
) -> Callable[[Callable[Concatenate[Rule, P], Check]], Callable[P, Check]]:
    """Make a check of a function that gets its :class:`Rule` first.

    One that cannot read its input is ``not_run``; one whose input is of another shape than every file of its kind
    (a list where there is a mapping) has failed: no host takes such a file.

    Example:
        >>> @rule("bedrock.3.context", "Context length", "at most 131072 tokens", "A1")
        ... def context(rule: Rule, config: Config) -> Check:
        ...     return rule.passed(str(config["max_position_embeddings"]))
        >>> context(config).rule
        'bedrock.3.context'
    """
    made = Rule(identifier, name, allowed, source)

    def decorate(check: Callable[Concatenate[Rule, P], Check]) -> Callable[P, Check]:
        @wraps(check)
        def run(*args: P.args, **kwargs: P.kwargs) -> Check:
            try:
                return check(made, *args, **kwargs)
            except (InputError, OSError) as error:
                return made.not_run(str(error), "put that right and check again")
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                found = f"a value that is not of its kind ({type(error).__name__}: {error})".split("\n")[0]
                return made.failed(found, "write the file as the tool that made it does")

        return run

    return decorate


class Preflight(BaseModel):
    """Every check of one folder; prints what needs doing as a table, and counts what passed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    folder: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that stop a push."""
        return self.of("fail")

    def of(self, status: Status) -> tuple[Check, ...]:
        """The checks with ``status``."""
        return tuple(check for check in self.checks if check.status == status)

    @property
    def verdict(self) -> str:
        """One line: whether to push, and how many checks say what."""
        counts = Counter(check.status for check in self.checks)
        said: dict[Status, str] = {"fail": "failed", "warn": "warned", "not_run": "not run", "pass": "passed"}
        numbers = ", ".join(f"{counts[status]} {word}" for status, word in said.items() if counts[status])
        if counts["fail"]:
            return f"NOT READY for {self.target}: {numbers}"
        if counts["not_run"]:
            return f"NOT PROVEN for {self.target}: {numbers}"
        return f"READY for {self.target}: {numbers}"

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_whole(path, self.model_dump_json(indent=2) + "\n")

    def __rich__(self) -> RenderableType:
        shown = [check for status in _ORDER for check in self.of(status)]
        sources = [*dict.fromkeys(check.source for check in shown)]
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
        table.add_column("Status", no_wrap=True)
        table.add_column("Rule", width=17, overflow="fold")
        table.add_column("Found, allowed, fix", ratio=1, overflow="fold")
        table.add_column("Src", justify="right", no_wrap=True)
        for check in shown:
            word, style = _LOOK[check.status]
            number = f"[{sources.index(check.source) + 1}]"
            table.add_row(Text(word, style), Text(self._short(check)), _detail(check), Text(number, "dim"))
        notes = Table.grid(padding=(0, 1))
        for place, source in enumerate(sources, start=1):
            notes.add_row(Text(f"[{place}]", "dim"), Text(source, "dim"))
        title = Text.assemble((f"{self.target} preflight", "bold"), f" of {self.folder}")
        worst: Status = next((s for s in ("fail", "not_run", "warn") if self.of(s)), "pass")
        parts: list[RenderableType] = [title, Text(), *self._passed()]
        if shown:
            parts += [table, Text(), notes, Text()]
        return Group(*parts, Text(self.verdict, _LOOK[worst][1]))

    def _passed(self) -> tuple[Text, ...]:
        """The counted line of what passed, with an empty one behind it; nothing if nothing did."""
        names = ", ".join(map(self._short, self.of("pass")))
        counted = (f"{len(self.of('pass'))} passed", _LOOK["pass"][1])
        return (Text.assemble(counted, f": {names}"), Text()) if names else ()

    def _short(self, check: Check) -> str:
        """``bedrock.1.architecture`` -> ``1 architecture``."""
        return check.rule.removeprefix(f"{self.target}.").replace(".", " ", 1)


def _detail(check: Check) -> Text:
    """What was found, what is allowed and the fix, each on its line."""
    found = (check.found, _LOOK[check.status][1])
    return Text.assemble(found, ("\nallowed: ", "bold"), check.allowed, ("\nfix: ", "bold"), check.fix)
