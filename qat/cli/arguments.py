"""The words after the command, before Hydra sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from qat.cli.bare_options import refuse_bare_options
from qat.config import hosting, record
from qat.config.compose import SEVERAL, choices, groups
from qat.config.explain import explain
from qat.config.schema import SETTLED_KEYS
from qat.errors import InputError

RECIPES_FLAG = "--recipes"
DRY_RUN_FLAG = "--dry-run"


@dataclass(frozen=True)
class Arguments:
    """What Hydra gets, and what must be known before it composes.

    Attributes:
        words: overrides and Hydra's own flags.
        recipes: the user's folder of recipes.
        help: whether help is asked for.
    """

    words: list[str]
    recipes: str | None
    help: bool

    @classmethod
    def parse(cls, command: str, words: list[str]) -> Arguments:
        """Split off our own flags; ``resume=`` and ``run=`` put that run's overrides before the new ones.

        A command with a schema of its own reads the run itself: its keys are others.

        Raises:
            InputError: for a flag without its value, or a folder that is no run folder.
        """
        asked = bool({"-h", "--help"} & {*words})
        words = [word for word in words if word not in ("-h", "--help")]
        if hosting.schema(command) is not None:
            words = ["dry_run=true" if word == DRY_RUN_FLAG else word for word in words]
            refuse_bare_options(command, _parse(_overrides(words)))
            return cls(_overrides_first(words), None, help=asked)
        rest = _recipes_flag_to_override(words)
        refuse_bare_options(command, _parse(_overrides(rest)))
        folders = {key: value for key in ("resume", "run") if (value := _value(rest, key)) is not None}
        if len(folders) > 1:
            raise InputError("resume and run exclude each other; resume=<run folder> continues a training")
        if "run" in folders:
            _refuse_settled(_overrides(rest), folders["run"])
        for folder in folders.values():
            rest = [*record.read_overrides(Path(folder)), *rest]
        return cls(_overrides_first(rest), _value(rest, "recipes"), help=asked)


def _recipes_flag_to_override(words: list[str]) -> list[str]:
    """``--recipes DIR`` is the override ``recipes=<absolute DIR>``, so that it is recorded with the run."""
    result: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag != RECIPES_FLAG:
            result.append(word)
            continue
        folder = value if equals else next(rest, "")
        if not folder:
            raise InputError(f"{RECIPES_FLAG} needs a folder: {RECIPES_FLAG} DIR")
        quoted = str(Path(folder).resolve()).replace("\\", "\\\\").replace('"', '\\"')
        result.append(f'recipes="{quoted}"')
    return result


def _overrides_first(words: list[str]) -> list[str]:
    """Hydra's parser takes overrides in one piece only; let flags stand between them."""
    overrides = _overrides(words)
    for override in _parse(overrides):
        _refuse_targets_of_hydra(override)
        _refuse_null(override)
        _refuse_no_name(override)
    return [*overrides, *(word for word in words if word not in overrides)]


def _overrides(words: list[str]) -> list[str]:
    """The words that are neither a flag nor the value of one."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    return [str(word) for word in parser.parse_intermixed_args(words).overrides]


def _refuse_targets_of_hydra(override: Override) -> None:
    """Hydra builds callbacks and plugins of its own before a job can check anything."""
    if override.key_or_group.startswith("hydra") and "_target_" in str(override.input_line):
        raise InputError(f"'{override.input_line}' is not allowed: a target of Hydra's own cannot be changed")


def _refuse_null(override: Override) -> None:
    """Hydra has no null for a group, and its message does not say which one was meant."""
    key = override.get_key_element()
    group = override.key_or_group
    if group in groups() and not override.is_delete() and override.value() is None:
        fix = f"{key}=[]" if group in SEVERAL else f"'~{key}'"
        raise InputError(f"{key}=null: to leave {key} out, write {fix}; choices: {', '.join(choices(group))}")


def _refuse_no_name(override: Override) -> None:
    """Hydra takes any value for a group, and fails on one that is no name."""
    group = override.key_or_group
    if group not in (*groups(), "recipe") or override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if not all(isinstance(name, str) for name in (value if isinstance(value, list) else [value])):
        raise InputError(
            f"'{override.input_line}': allowed is {'a list of names' if group in SEVERAL else 'a name'}; "
            f"choices: {', '.join(choices(group))}"
        )


def _refuse_settled(words: list[str], folder: str) -> None:
    """Refuse what a finished run has settled and a new word could not change."""
    for override in _parse(words):
        if override.key_or_group.partition(".")[0] in SETTLED_KEYS:
            raise InputError(
                f"'{override.input_line}' has no effect with run={folder}: that run is finished; leave it out, or "
                "start a new run with it"
            )


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message}; see qat --help")


def _value(words: list[str], key: str) -> str | None:
    """The last value given for ``key``, as Hydra reads it."""
    given = [word for word in words if word.startswith(f"{key}=")]
    if not given:
        return None
    value = _parse(given)[-1].value()
    return None if value is None else str(value)


def _parse(words: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise explain(error) from error
