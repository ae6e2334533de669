"""``qat --help`` and ``qat <command> --help``: commands, groups with their choices, recipes and examples."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qat.cli.commands import commands
from qat.config.compose import GROUP, choices, groups

EXAMPLES = (
    ("qat run recipe=demo/w4a16_lsq", "train, quantize, export and score the model that ships with qat"),
    ("qat run recipe=demo/w4a16_lsq trainer.max_steps=50 scheme=w8a8", "the same with options changed"),
    ("qat run recipe=llama3_2_1b/w4a16_lsq 'data.train=[corpus/*.txt]'", "your model, your text"),
    ("qat train resume=outputs/demo/w4a16_lsq/latest", "go on after an interruption, bit for bit"),
    ("qat export run=outputs/demo/w4a16_lsq/latest", "write the exports of a run of qat train or ptq"),
    ("qat evaluate model=hf model.path=meta-llama/Llama-3.2-1B", "score a float model"),
    ("qat run recipe=demo/w4a16_lsq --cfg job", "show what would run"),
    ("qat train recipe=demo/w4a16_lsq optimizer.lr=1e-4,1e-3 --multirun", "sweep"),
)
OPTIONS = (
    ("--recipes DIR", "add a folder of your own recipes, DIR/<folder>/<recipe>.yaml"),
    ("--cfg job", "print the composed config instead of running"),
    ("--multirun", "run every combination of comma-separated values"),
    ("-sc install=bash", 'tab completion: eval "$(qat -sc install=bash)" (also zsh, fish)'),
    ("--help, --version", "this page; the version"),
    ("--hydra-help", "Hydra's own options"),
)
KEYS = (
    ("trainer.max_steps=500", "set an option"),
    ("scheme=w8a8", "pick a choice of a group"),
    ("+phase@schedule.warmup=float_warmup", "add a phase to the schedule"),
    ("export=[a,b]", "pick several exports"),
    ("'~scheme'", "leave a group out: float training"),
    ("seed=1 run_dir=DIR", "besides the groups; also evaluate.*, baseline.*, expect.*"),
)


def overview(console: Console) -> None:
    """Print the page of ``qat --help``."""
    _print(
        console,
        Text("qat: quantization-aware training of transformers, from a recipe to files that engines load"),
        _section("Usage", Text("qat <command> [key=value ...] [options]")),
        _section("Commands", _pairs(commands())),
        _section("Options", _pairs(dict(OPTIONS))),
        _section("Recipes (recipe=...)", _recipes()),
        _section("Groups (group=choice)", _groups()),
        _section("Examples", _pairs(dict(EXAMPLES), wide=True)),
        Text("qat <command> --help describes every choice."),
    )


def command_page(console: Console, command: str) -> None:
    """Print the page of ``qat <command> --help``."""
    detailed = [_section(f"{group}=", _pairs(_described(group))) for group in groups()]
    _print(
        console,
        Text(f"qat {command}: {commands()[command]}"),
        _section("Usage", Text(f"qat {command} [key=value ...] [options]")),
        _section("Keys", _pairs(dict(KEYS))),
        _section("Options", _pairs(dict(OPTIONS))),
        _section("recipe=", _pairs(_described(GROUP))),
        *detailed,
        Text(f"qat {command} --cfg job prints every option with its value."),
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
    return _pairs({group: ", ".join(choices(group)) for group in groups()})


def _described(group: str) -> dict[str, str]:
    return {name: _first_comment(path) for name, path in choices(group).items()}


def _first_comment(path: Path) -> str:
    """A config says in its first line what it is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ")
    return ""
