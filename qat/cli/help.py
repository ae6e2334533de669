"""``qat --help`` and ``qat <command> --help``: commands, groups with their choices, recipes and examples."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qat.cli.commands import commands
from qat.config.compose import GROUP, choices, groups
from qat.config.schema import SETTLED_KEYS

EXAMPLES = (
    ("qat run recipe=demo/w4a16_lsq", "train, quantize, export and score the model that ships with qat"),
    ("qat run recipe=demo/w4a16_lsq trainer.max_steps=50 scheme=w8a8", "the same with options changed"),
    ("qat run recipe=llama3_2_1b/w4a16_lsq 'data.train=[corpus/*.txt]'", "your model, your text"),
    ("qat train resume=outputs/demo/w4a16_lsq/latest", "go on after an interruption, bit for bit"),
    ("qat ptq model=hf model.path=models/my-llama scheme=w8a8", "quantize a model without training"),
    ("qat ptq model=hf model.path=models/llama-70b stream=true", "the same for a model larger than memory"),
    ("qat export run=outputs/demo/w4a16_lsq/latest export=[gguf,onnx]", "write a finished run in other formats"),
    ("qat validate run=outputs/demo/w4a16_lsq/latest engine=[vllm,llama_cpp]", "load its exports in real engines"),
    ("qat evaluate model=hf model.path=meta-llama/Llama-3.2-1B", "score a float model"),
    ("qat run recipe=demo/w4a16_lsq --cfg job", "show what would run"),
    ("qat train recipe=demo/w4a16_lsq optimizer.lr=1e-4,1e-3 --multirun", "sweep"),
)
OPTIONS = (
    ("--recipes DIR", "add a folder of your own recipes, DIR/<folder>/<recipe>.yaml"),
    ("--cfg job", "print every option with its value instead of running"),
    ("--multirun", "run every combination of comma-separated values"),
    ("-sc install=bash", 'tab completion: eval "$(qat -sc install=bash)" (also zsh, fish)'),
    ("--help, --version", "this page; the version"),
    ("--hydra-help", "options of Hydra, the library that reads the keys"),
)
KEYS = (
    ("recipe=demo/w4a16_lsq", "start from a recipe; every other key changes it"),
    ("scheme=w8a8", "pick a choice of a group"),
    ("trainer.max_steps=500", "set an option of what is picked"),
    ("+phase@schedule.warmup=float_warmup", "add a phase named warmup to the precision schedule"),
    ("+ptq@baseline.ptq.mse=rtn_mse", "compare with one more PTQ algorithm, under the name mse"),
    ("export=[]", "write no export; export=[a,b] writes several"),
    ("engine=[transformers,vllm]", "engines that load every export whose format they know; [] for none"),
    ("'~logger'", "leave a group out (quoted for the shell); '~scheme' is float training"),
    ("run_dir=DIR", "where the result goes; default: outputs/<recipe or model>/<time>"),
    ("seed=1 evaluate.blocks=64", "keys besides the groups; also baseline.*, expect.*, rest_dtype, ..."),
)
KEYS_OF_A_FINISHED_RUN = (
    ("run=outputs/demo/w4a16_lsq/latest", "the run folder; everything else is as it was there, unless changed"),
    ("export=[a,b]", "which exports; default: qat export those of the run, qat validate all that lie in the folder"),
    ("overwrite=true", "qat export replaces an export that exists"),
    ("engine=[transformers,vllm]", "which engines qat validate loads them in"),
    ("engine.transformers.dtype=bfloat16", "how one of them computes"),
    ("trainer.device=cpu", "where qat validate computes"),
    ("evaluate.blocks=64", "how much text qat validate scores; other text than the run's is not stored"),
)
KEYS_OF_BENCH = (
    ("size=8GB", "weights of the synthetic model: Llama-shaped, random, bfloat16"),
    ("shard_size=1GB", "of each of its files"),
    ("scheme=w4a16_g128", "what it is quantized to"),
    ("rounds=3", "how often to copy its files and to export it, in turn"),
    ("bench_dir=DIR", "a folder on the disk to measure; what is written there is removed"),
    ("json=FILE", "where to write the numbers"),
)
# The run folder that a command takes, or can take.
FOLDERS = {
    "run": "[resume=<run folder>] ",
    "train": "[resume=<run folder>] ",
    "ptq": "[resume=<run folder>] ",
    "evaluate": "[run=<run folder>] ",
    "export": "run=<run folder> ",
    "validate": "run=<run folder> ",
}


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
    of_a_run = FOLDERS.get(command, "").startswith("run=")
    shown = [group for group in (GROUP, *groups()) if not (of_a_run and group in SETTLED_KEYS)]
    detailed = [_section(f"{group}=", _pairs(_described(group))) for group in shown]
    _print(
        console,
        Text(f"qat {command}: {commands()[command]}"),
        _section("Usage", Text(f"qat {command} {FOLDERS.get(command, '')}[key=value ...] [options]")),
        _section("Keys", _pairs(dict(KEYS_OF_A_FINISHED_RUN if of_a_run else KEYS))),
        _section("Options", _pairs(dict(OPTIONS))),
        *detailed,
        Text(f"qat {command} --cfg job prints every option with its value."),
    )


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
    return _pairs({group: ", ".join(choices(group)) for group in groups()})


def _described(group: str) -> dict[str, str]:
    return {name: _first_comment(path) for name, path in choices(group).items()}


def _first_comment(path: Path) -> str:
    """A config says in its first line what it is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ")
    return ""
