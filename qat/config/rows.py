"""The rows of ``qat compare``: one YAML each in ``configs/row``, what it changes in the recipe that is compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qat.config.compose import ROW, choices, component, compose
from qat.config.explain import explain
from qat.config.schema import COMPONENTS
from qat.errors import InputError, nearest

_PHASE = "+phase@schedule."
Kind = Literal["float", "ptq", "trained"]
TUNED_FLOAT = "tuned_float"
"""The one row of kind ``float``: its models are what PTQ starts from and what teaches, so it is in every table."""


class Row(BaseModel):
    """One row.

    Attributes:
        name: that of its file.
        title: what a reader sees.
        kind: ``float`` trains the base on in float, ``ptq`` quantizes that model, ``trained`` trains a quantized one.
        overrides: words behind the recipe's, as on the command line; ``~schedule``, or a phase, drops its phases.
        with_activations: more words where the scheme quantizes activations.
        tune: option -> values: every combination is tried with the first seed, and that with the lowest loss on the
            validation split is the row's.
        first_seeds: use only so many of the seeds; null for all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    title: str
    kind: Kind
    overrides: list[str] = Field(default_factory=list)
    with_activations: list[str] = Field(default_factory=list)
    tune: dict[str, list[float | int | str]] = Field(default_factory=dict)
    first_seeds: int | None = Field(default=None, ge=1)

    def candidates(self) -> list[list[str]]:
        """The words of every combination of ``tune``; one empty list where nothing is tuned.

        Example:
            >>> Row(name="a", title="A", kind="trained", tune={"optimizer.lr": [0.1, 0.2]}).candidates()
            [['optimizer.lr=0.1'], ['optimizer.lr=0.2']]
        """
        return [
            [f"{key}={value}" for key, value in zip(self.tune, values, strict=True)]
            for values in product(*self.tune.values())
        ]


def read(name: str) -> Row:
    """The row ``configs/row/<name>.yaml``.

    Raises:
        InputError: there is no such row, or its file has a key or value that a row does not have.
    """
    known = choices(ROW)
    if name not in known:
        raise InputError(f"row '{name}' not found{nearest(name, known) or ';'} rows: {', '.join(known)}")
    content: dict[str, Any] = component(ROW, name)
    try:
        return Row.model_validate({"name": name, **content})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{known[name]}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def picked(names: Sequence[str]) -> list[Row]:
    """The rows of a table in the order in which they are made: the tuned float, PTQ, trained.

    Args:
        names: of the rows; none for all that there are. The tuned float is always one of them.

    Raises:
        InputError: see :func:`read`; or a name twice.
    """
    if doubled := sorted({name for name in names if [*names].count(name) > 1}):
        raise InputError(f"rows names '{doubled[0]}' twice; name each row once")
    rows = [read(name) for name in dict.fromkeys([TUNED_FLOAT, *(names or choices(ROW))])]
    return [*_of(rows, "float"), *_of(rows, "ptq"), *_of(rows, "trained")]


@dataclass(frozen=True)
class Composed:
    """A run's config, and the words that it comes from."""

    config: DictConfig
    words: list[str]


def compose_row(row: Row, typed: Sequence[str], settings: Sequence[str], recipes: str | None) -> Composed:
    """The recipe as ``row`` changes it.

    Where the row picks another part (``loss=cross_entropy``), options of the recipe and of the command that this part
    does not have are dropped.

    Args:
        row: what to change.
        typed: the words of the command.
        settings: words of one candidate of the row, and the seed.
        recipes: the user's folder of recipes.

    Raises:
        InputError: the row does not fit the recipe.
    """
    typed = [word for word in typed if not _is_of_another_part(word, row)]
    words = [*typed, *row.overrides, *settings]
    try:
        config = compose(words, recipes)
        groups = config.scheme.config_groups.values() if config.scheme else []
        if row.with_activations and any(group.get("input_activations") for group in groups):
            words = [*typed, *row.overrides, *row.with_activations, *settings]
            config = compose(words, recipes)
        if dropped := _left_over(row, config):
            words = [*words, *dropped]
            config = compose(words, recipes)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    return Composed(config, words)


def _left_over(row: Row, config: DictConfig) -> list[str]:
    """Words that delete the options which no longer have a part that takes them, and phases that were replaced."""
    options = [
        f"~{group}.{key}"
        for group, choice in _parts(row).items()
        for key in config[group]
        if key not in component(group, choice)
    ]
    own = [word.partition("=")[0].removeprefix(_PHASE) for word in row.overrides if word.startswith(_PHASE)]
    phases = [f"~schedule.{name}" for name in (config.schedule if own else ()) if name not in own]
    return [*options, *phases]


def _is_of_another_part(word: str, row: Row) -> bool:
    """Whether ``word`` sets an option that the part which ``row`` picks does not have."""
    group, _, option = word.partition("=")[0].lstrip("+~").partition(".")
    choice = _parts(row).get(group)
    return bool(option) and choice in choices(group) and option.partition(".")[0] not in component(group, str(choice))


def _parts(row: Row) -> dict[str, str]:
    """Group -> the choice that ``row`` makes for it."""
    return dict(word.split("=", 1) for word in row.overrides if word.partition("=")[0] in COMPONENTS)


def _of(rows: Sequence[Row], kind: Kind) -> Iterator[Row]:
    return (row for row in rows if row.kind == kind)
