"""A scheme of the user's own: ``scheme=<path>.yaml`` where else the name of one of ``configs/scheme`` stands.

The file is as those are, and may leave out all but ``config_groups``. What it holds is recorded with the run, in
``.hydra/scheme.yaml``, and that is what a resumed run reads: the file may change or go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from qat.errors import InputError

GROUP = "scheme"
RECORDED = "scheme.yaml"
# What a file may leave out: the defaults of `qat.scheme.Scheme`, written here so that overrides find every key.
OPTIONAL: dict[str, Any] = {
    "_target_": "qat.scheme.Scheme",
    "ignore": [],
    "scale_format": "bf16",
    "group_fallback": None,
    "narrow_range": False,
    "kv_cache": None,
}


def find(config_path: str) -> Path | None:
    """The file that a choice of the group names, as Hydra asks for it (``scheme/<path>.yaml``); None if it is none."""
    group, _, name = config_path.partition("/")
    path = Path(name)
    return path if group == GROUP and is_path(name) and path.is_file() else None


def is_path(choice: str) -> bool:
    """Whether a choice is meant as a file and not as a name.

    Example:
        >>> is_path("mine/scheme.yaml"), is_path("w4a16_g32")
        (True, False)
    """
    return choice.endswith(".yaml")


def load(path: Path) -> dict[str, Any]:
    """The component in a scheme file.

    Raises:
        InputError: it is not one.
    """
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"scheme={path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, dict) or "config_groups" not in node:
        raise InputError(f"scheme={path} is no scheme: it must be a mapping with config_groups, as configs/scheme has")
    if "defaults" in node:
        raise InputError(f"scheme={path} has a defaults list, which has no place in a scheme file; remove it")
    return OPTIONAL | node


def write(config: dict[str, Any], folder: Path) -> None:
    """Keep the scheme of a run's config in its new folder ``.hydra``, if it was picked as a file."""
    choice = (config.get("choices") or {}).get(GROUP)
    if isinstance(choice, str) and is_path(choice):
        (folder / RECORDED).write_text(yaml.safe_dump(config[GROUP], sort_keys=False), encoding="utf-8")


def override(folder: Path) -> list[str]:
    """What reads the recorded file again, given a run's ``.hydra``; empty if there is none."""
    path = (folder / RECORDED).resolve()
    quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return [f'{GROUP}="{quoted}"'] if path.is_file() else []
