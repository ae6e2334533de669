"""Turn what Hydra and OmegaConf raise on a user's mistake into one line with the nearest valid names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from qat.config import scheme_file
from qat.config.compose import ROW, SEVERAL, choices, groups
from qat.config.wrong_type import of_node
from qat.errors import InputError, nearest

# Where components sit under names of their own -> how one is added.
_ADDED_BY = {
    "schedule": "+phase@schedule.{name}=<phase>",
    "baseline.ptq": "+ptq@baseline.ptq.{name}=<algorithm>",
    "export": "export=[<format>,<format>]",
    "engine": "engine=[<engine>,<engine>]",
    "pricing": "pricing=[<host>,<host>]",
}
_NO_MATCH = re.compile(r"Could not (override|delete) '([^']+)'\.")
_NO_GROUP = re.compile(r"config group '([^']+)' does not exist")


def explain(error: Exception) -> InputError:
    """What the user can do about ``error``, which came out of a composition."""
    if (ours := _our_own(error)) is not None:
        return ours
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        if error.missing_cfg_file.startswith(f"{scheme_file.GROUP}/") and scheme_file.is_path(error.missing_cfg_file):
            path = error.missing_cfg_file.partition("/")[2]
            return InputError(f"scheme={path}: there is no such file; give a scheme file, or a name: scheme=<choice>")
        return unknown_choice(*_split(error.missing_cfg_file))
    if isinstance(error, OverrideParseException):
        return InputError(f"'{error.override}' cannot be read as an option; write it as key=value{_quoting(error)}")
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and isinstance(cause.parent_node, DictConfig):
        return unknown_key(str(cause.full_key), cause.parent_node.keys())
    if isinstance(cause, MissingMandatoryValue):
        return InputError(f"{cause.full_key} has no value; give it as {cause.full_key}=<value>")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if (wrong := of_node(cause)) is not None:
            return wrong
        return InputError(f"{cause.full_key}: {_first_line(cause)}")
    if (found := _NO_MATCH.match(str(error))) is not None:
        return _no_match(*found.groups())
    if (found := _NO_GROUP.search(str(error))) is not None:
        return unknown_choice(found[1], "")
    return InputError(_one_line(error))


def unknown_choice(group: str, name: str) -> InputError:
    """``recipe=demo/w4a16_lsqq`` and the like."""
    allowed = choices(group)
    if not allowed:
        return InputError(
            f"config group '{group}' does not exist{nearest(group, groups()) or ';'} groups: {', '.join(groups())}"
        )
    return InputError(f"{group} '{name}' not found{nearest(name, allowed) or ';'} choices: {', '.join(allowed)}")


def unknown_key(full_key: str, siblings: Iterable[object]) -> InputError:
    """``trainer.max_stepz=5`` and the like."""
    parent, _, key = full_key.rpartition(".")
    allowed = sorted({str(sibling) for sibling in siblings} - {"_target_", "hydra"})
    if parent in _ADDED_BY:
        return InputError(f"{parent} has no '{key}'{nearest(key, allowed) or ';'} add it with {how_to_pick(full_key)}")
    where = f"{parent} has no option '{key}'" if parent else f"there is no option '{key}'"
    listed = f" options: {', '.join(allowed)}" if allowed else " it takes none"
    return InputError(f"{where}{nearest(key, allowed) or ';'}{listed}")


def how_to_pick(key: str) -> str:
    """What to type for a component at ``key``.

    Example:
        >>> how_to_pick("schedule.warmup"), how_to_pick("loss")
        ('+phase@schedule.warmup=<phase>', 'loss=<choice>')
    """
    parent, _, name = key.rpartition(".")
    return _ADDED_BY.get(parent, f"{key}=<choice>").format(name="<name>" if name == "_target_" else name)


def _no_match(verb: str, key: str) -> InputError:
    """``phase@schedule.x=blend`` without its plus, ``~export``, ``~loss`` where there is none."""
    group, _, place = key.partition("@")
    if key == ROW:
        return InputError(f"{key} is no part of a run; the rows of qat compare are picked with rows=[<row>,...]")
    if verb == "override":
        fix = f"+{key}=<choice>" if place else how_to_pick("schedule.<name>")  # `phase` is no part of a run by itself
        return InputError(f"there is no {key} to replace; to add one, write {fix}")
    if group in SEVERAL:
        return InputError(f"'~{key}' cannot leave it out; write {group}=[]")
    return InputError(f"'~{key}': this run has no {key}, so there is nothing to leave out")


def _our_own(error: BaseException | None) -> InputError | None:
    """An error of ours that Hydra or OmegaConf wrapped, such as that of a resolver."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _split(config_path: str) -> tuple[str, str]:
    """Group and name; only recipes are nested, so the first folder is the group."""
    group, _, name = config_path.removesuffix(".yaml").partition("/")
    return group, name


def _quoting(error: OverrideParseException) -> str:
    """Values with special characters are the usual reason for a parse error."""
    return ", and put quotes around a value with special characters: 'key=\"a=b\"'" if "=" in error.override else ""


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line[:1].lower() + line[1:]


def _one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
