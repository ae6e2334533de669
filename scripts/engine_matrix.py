"""Load every scheme preset in every export format in every engine, and write what came out to docs/engines.md.

python scripts/engine_matrix.py                          everything; engines that are not installed are named
python scripts/engine_matrix.py --schemes w8a8 --engines vllm transformers --no-docs

The model that ships with qat is quantized by round to nearest. Where a format cannot hold the preset's own scales, or
the unquantized weights' own dtype, the first of a few others that it can hold takes their place, and the table says
which. Exit code 1: numbers differ, an engine failed, or a format refuses other schemes than those in ``REFUSED``.
``scripts/engines.sh`` sets the engines up.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from qat.cli import quiet

quiet.libraries()  # before they are imported

from rich.console import Console  # noqa: E402

from qat.checkpoint import QuantizedCheckpoint  # noqa: E402
from qat.config.check import check, instantiate  # noqa: E402
from qat.config.compose import choices, component, compose  # noqa: E402
from qat.config.run_folder import RunFolder  # noqa: E402
from qat.config.schema import RunConfig  # noqa: E402
from qat.engines.foreign import processor_flags  # noqa: E402
from qat.errors import InputError, QatError  # noqa: E402
from qat.export.base import Exporter  # noqa: E402
from qat.jobs.stages import exports, inputs, quantization  # noqa: E402
from qat.jobs.stages.evaluation import Evaluation  # noqa: E402
from qat.jobs.stages.inputs import Inputs  # noqa: E402
from qat.report.engines import STATUS  # noqa: E402
from qat.report.environment import environment  # noqa: E402
from qat.report.matrix.page import insert, markdown  # noqa: E402
from qat.report.matrix.records import Matrix, Row  # noqa: E402
from qat.report.matrix.table import terminal_table  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent / "docs"
CHANGES: tuple[dict[str, str], ...] = (
    {},
    {"rest_dtype": "float16"},
    {"scale_format": "fp16"},
    {"scale_format": "lossless_bf16"},
    {"scale_format": "lossless_fp16"},
    {"scale_format": "lossless_fp16", "rest_dtype": "float16"},
)
"""What is tried, in this order, until a format can hold what comes out: the preset as it is first."""
_ACTIVATIONS = frozenset({"w4a8_channel", "w4a8_g32", "w4a8_static_channel", "w8a8", "w8a8_static"})
_KV_CACHE = frozenset({"w4a16_g32_kv8", "w8a8_kv8", "w8a8_static_kv8"})
REFUSED: dict[str, frozenset[str]] = {
    "compressed_tensors": frozenset({"w4a16_g32_head8"}),
    "gguf": _ACTIVATIONS | _KV_CACHE | {"w2a16_g32_asym", "w4a16_g32_asym"},
    "gptq": _ACTIVATIONS | _KV_CACHE | {"w4a16_g32_head4", "w4a16_g32_head8"},
    "onnx": _KV_CACHE,
    "onnx, static=true": _ACTIVATIONS | _KV_CACHE,
    "torchao": _KV_CACHE | {"w4a8_g32", "w4a8_static_channel", "w8a8_static"},
}
"""Format -> the schemes that it cannot hold, whatever is changed of them; docs/formats.md says why."""
FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")
"""Instruction sets that decide which kernels there are."""


@dataclass(frozen=True)
class Format:
    """An export config, options that are not its default, and engines of the format that these files are not for."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    not_for: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``dequantized, dialect=transformers_4_51``."""
        return ", ".join([self.name, *(f"{key}={str(value).lower()}" for key, value in self.options.items())])

    @property
    def node(self) -> dict[str, Any]:
        """The component."""
        return component("export", self.name) | self.options


def formats(block_size: int) -> list[Format]:
    """Every format as it is by default, and the dialects that other engines need."""
    not_for = {"dequantized": ("transformers_4_51",)}
    found = [Format(name, not_for=not_for.get(name, ())) for name in choices("export")]
    found += [Format("dequantized", {"dialect": "transformers_4_51"})]
    found += [Format("onnx", {"static": True, "sequence": block_size})]
    return sorted(found, key=lambda one: one.label)


class Matrixed:
    """Quantizes, writes and validates; keeps the checkpoints that several formats share.

    Args:
        run: the demo's config, with the engines that are asked for.
        place: a folder for everything that is written.
    """

    def __init__(self, run: RunConfig, place: Path) -> None:
        self.run = run
        self.place = place
        self.inputs: Inputs = inputs.load(run)
        self.evaluation = Evaluation(run, self.inputs)
        self._folders: dict[str, Path] = {}
        self._perplexities: dict[Path, float | None] = {}

    def row(self, scheme: str, form: Format) -> Row:
        """One scheme in one format, in every engine that loads it."""
        exporter: Exporter = instantiate(form.node, f"export.{form.name}")
        refused = ""
        for changes in CHANGES:
            folder = self.place / "run"
            shutil.rmtree(folder, ignore_errors=True)
            checkpoint, quantized = self._quantized(scheme, changes)
            try:  # nothing else may be taken for a refusal
                exporter.write(checkpoint, folder / "exports" / form.name, quantized)
            except InputError as error:
                refused = refused or str(error)
                continue
            engines = {name: node for name, node in self.run.engine.items() if name not in form.not_for}
            run = replace(self.run, export={form.name: form.node}, engine=engines)
            validation = exports.validate(run, RunFolder("validate", folder, {}, []), checkpoint, self.evaluation)
            result = validation.results[form.name]
            for engine in result.engines.values():  # where it lay for a moment is of no interest
                engine.reason = engine.reason and engine.reason.replace(str(folder / "exports" / form.name), form.name)
            if quantized not in self._perplexities:
                self._perplexities[quantized] = self.evaluation.quantized(scheme, checkpoint).perplexity
            measured = self._perplexities[quantized]
            return Row(scheme=scheme, changes=changes, format=form.label, perplexity=measured, result=result)
        return Row(scheme=scheme, format=form.label, refused=refused)

    def _quantized(self, scheme: str, changes: Mapping[str, str]) -> tuple[QuantizedCheckpoint, Path]:
        """The quantized checkpoint and its folder."""
        key = "-".join([scheme, *changes.values()])
        if key not in self._folders:
            node = component("scheme", scheme)
            node["scale_format"] = changes.get("scale_format", node["scale_format"])
            run = replace(self.run, rest_dtype=changes.get("rest_dtype", self.run.rest_dtype))
            folder = self.place / key
            made = quantization.post_training(
                run, self.inputs, self.inputs.loaded.model, instantiate(run.ptq, "ptq"), instantiate(node, "scheme")
            )
            made.save(folder, self.inputs.loaded.tokenizer)
            self._folders[key] = folder
        return QuantizedCheckpoint.load(self._folders[key]), self._folders[key]


def unexpected(found: Iterable[Row]) -> list[str]:
    """Refusals that :data:`REFUSED` does not have, and those of it that are none."""
    problems = []
    for row in found:
        name = row.format.partition(", sequence=")[0]
        refused = row.result is None
        if refused != (row.scheme in REFUSED.get(name, ())):
            what = f"refused: {row.refused}" if refused else "held, though REFUSED in scripts/engine_matrix.py has it"
            problems.append(f"{row.label} in {row.format}: {what}")
    return problems


def processor() -> str:
    """Name of the processor, and which of :data:`FLAGS` it has."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = processor_flags()
    name = facts.get("model name") or platform.processor() or platform.machine()
    return ", ".join([name, *(flag for flag in FLAGS if flag in flags)])


def parse(words: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", choices=[*choices("scheme")], default=[*choices("scheme")])
    parser.add_argument("--formats", nargs="+", choices=[*choices("export")], default=[*choices("export")])
    parser.add_argument("--engines", nargs="+", choices=[*choices("engine")], default=[*choices("engine")])
    parser.add_argument("--blocks", type=int, default=4, help="blocks of the test split that are scored")
    parser.add_argument("--json", type=Path, default=None, help="where the numbers go; default: docs/engines.json")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/engines.md and docs/engines.json alone")
    return parser.parse_args(words)


def rows(options: argparse.Namespace, run: RunConfig, console: Console) -> Iterator[Row]:
    """Every row, as it is done."""
    with tempfile.TemporaryDirectory(prefix="qat-matrix-") as place:
        matrixed = Matrixed(run, Path(place))
        wanted = [one for one in formats(matrixed.inputs.trainer.block_size) if one.name in options.formats]
        pairs = list(product(options.schemes, wanted))
        for number, (scheme, form) in enumerate(pairs, start=1):
            start = time.monotonic()
            with console.status(f"{number}/{len(pairs)} {scheme} in {form.label}"):
                row = matrixed.row(scheme, form)
            line = f"{number}/{len(pairs)} {progress(row)} ({time.monotonic() - start:.0f} s)"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            yield row


def progress(row: Row) -> str:
    """One line of what a row found."""
    if row.result is None:
        return f"{row.label} in {row.format}: refused: {row.refused}"
    engines = ", ".join(f"{name} {STATUS[engine.status]}" for name, engine in row.engines.items())
    return f"{row.label} in {row.format}: {row.result.mismatches} numbers differ; {engines or 'no engine'}"


def main(words: list[str]) -> int:
    """Run what the command line asks for."""
    options = parse(words)
    console = Console(width=None if sys.stdout.isatty() else 150)
    picked = [f"engine=[{','.join(options.engines)}]", "export=[]", "ptq=rtn"]
    run = check(compose([*picked, "trainer.device=cpu", f"evaluate.blocks={options.blocks}"]))
    block_size = instantiate(run.trainer, "trainer").block_size
    matrix = Matrix(
        command=shlex.join(["python", "scripts/engine_matrix.py", *words]),
        model=str(run.choices.model),
        tokens=options.blocks * (block_size - 1),
        processor=processor(),
        environment=environment(),
    )
    numbers = options.json or (None if options.no_docs else DOCS / "engines.json")
    for row in rows(options, run, Console(stderr=True)):
        matrix.rows.append(row)
        if numbers is not None:
            numbers.write_text(matrix.model_dump_json(indent=1) + "\n", encoding="utf-8")
    console.print(terminal_table(matrix))
    if not options.no_docs:
        page = DOCS / "engines.md"
        page.write_text(insert(page.read_text(encoding="utf-8"), markdown(matrix)), encoding="utf-8")
        console.print(f"written: {page}", markup=False, highlight=False, soft_wrap=True)
    if numbers is not None:
        console.print(f"written: {numbers}", markup=False, highlight=False, soft_wrap=True)
    problems = [*matrix.problems, *unexpected(matrix.rows)]
    for problem in problems:
        console.print(f"problem: {problem}", style="bold red", markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except QatError as error:
        print(f"engine_matrix: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
