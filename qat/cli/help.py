"""``qat --help`` and ``qat <command> --help``: commands, groups with their choices, recipes and examples."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qat.cli.commands import commands
from qat.cli.help_text import (
    EXAMPLES,
    FOLDERS,
    KEYS,
    KEYS_OF_A_FINISHED_RUN,
    KEYS_OF_BENCH,
    KEYS_OF_HOSTING,
    KEYS_OF_MIXED_PRECISION,
    OPTIONS,
)
from qat.config.compose import GROUP, ROW, choices, groups
from qat.config.hosting import schema
from qat.config.schema import SETTLED_KEYS, RunConfig
from qat.engines.serving import ENGINES


def overview(console: Console) -> None:
    """Print the page of ``qat --help``."""
    _print(
        console,
        Text("qat: quantization-aware training (QAT) of transformers, from a recipe to files that engines load"),
        _section("Usage", Text("qat <command> [key=value ...] [options]")),
        _section("First", Text("qat run recipe=demo/w4a16_lsq    (minutes on a laptop, no network)")),
        _section("Commands", _pairs(commands())),
        _section("Options", _pairs(dict(OPTIONS))),
        _section("Recipes: recipe=<folder>/<name>", _recipes()),
        _section("Parts to pick: <group>=<choice>", _groups()),
        _section("Examples", _pairs(dict(EXAMPLES), wide=True)),
        Text("qat <command> --help explains how keys are written and describes every recipe and choice."),
    )


def command_page(console: Console, command: str) -> None:
    """Print the page of ``qat <command> --help``."""
    detailed = [_section(_written(group), _pairs(_described(command, group))) for group in _groups_of(command)]
    _print(
        console,
        Text(f"qat {command}: {commands()[command]}"),
        _section("Usage", Text(f"qat {command} {FOLDERS.get(command, '')}[key=value ...] [options]")),
        _section("Keys", _pairs(dict(_keys_of(command)))),
        _section("Options", _pairs(dict(OPTIONS))),
        *detailed,
        Text(f"qat {command} --cfg job prints every option with its value."),
    )


def _keys_of(command: str) -> tuple[tuple[str, str], ...]:
    if command in KEYS_OF_HOSTING:
        return KEYS_OF_HOSTING[command]
    if command in KEYS_OF_MIXED_PRECISION:
        return KEYS_OF_MIXED_PRECISION[command]
    return KEYS_OF_A_FINISHED_RUN if _is_of_a_run(command) else KEYS


def _groups_of(command: str) -> list[str]:
    """The groups that a command picks components from."""
    if (own := schema(command)) is not None:
        return [group for group in groups() if group in {field.name for field in fields(own)}]
    hosting = {field.name for name in KEYS_OF_HOSTING for field in fields(schema(name) or RunConfig)}
    hosting -= {field.name for field in fields(RunConfig)}
    shown = [group for group in (GROUP, *groups()) if group not in hosting]
    settled = SETTLED_KEYS if _is_of_a_run(command) else ()
    return [group for group in shown if group not in settled and (group != ROW or command == "compare")]


def _written(group: str) -> str:
    """How a choice of the group is typed."""
    return "rows=[<row>,...]" if group == ROW else f"{group}="


def _is_of_a_run(command: str) -> bool:
    return FOLDERS.get(command, "").startswith("run=")


def plain_page(console: Console, command: str) -> None:
    """Print the page of a command that works on no recipe: ``qat bench --help``."""
    _print(
        console,
        Text(f"qat {command}: {commands()[command]}"),
        _section("Usage", Text(f"qat {command} export [key=value ...]")),
        _section("Keys, with their defaults", _pairs(dict(KEYS_OF_BENCH))),
    )


def _print(console: Console, *parts: RenderableType) -> None:
    for index, part in enumerate(parts):
        if index:
            console.print()
        console.print(part, soft_wrap=not console.is_terminal and isinstance(part, Text))


def _section(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(title, style="bold"), Padding(body, (0, 0, 0, 2), expand=False))


def _pairs(pairs: dict[str, str], wide: bool = False) -> RenderableType:
    """Two columns; ``wide`` puts the explanation above a long left side."""
    if wide:
        return Group(*(Text.assemble((f"# {why}\n", "dim"), what) for what, why in pairs.items()))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for what, why in pairs.items():
        table.add_row(Text(what), Text(why))
    return table


def _recipes() -> RenderableType:
    by_folder: dict[str, list[str]] = {}
    for name in choices(GROUP):
        folder, _, recipe = name.rpartition("/")
        by_folder.setdefault(folder, []).append(recipe)
    return _pairs({f"{folder}/": ", ".join(recipes) for folder, recipes in by_folder.items()})


def _groups() -> RenderableType:
    return _pairs({group: ", ".join(choices(group)) for group in groups() if group != ROW})


def _described(command: str, group: str) -> dict[str, str]:
    """The choices of a group that a command takes, and what each is."""
    paths = choices(group)
    names = ENGINES if (command, group) == ("serve", "engine") else paths
    return {name: _first_comment(paths[name]) for name in names}


def _first_comment(path: Path) -> str:
    """A config says in its first line what it is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ")
    return ""
