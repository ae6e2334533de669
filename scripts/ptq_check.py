"""Compare qat's GPTQ and AWQ with llmcompressor's: same calibration tokens, same grid, same evaluator.

python scripts/ptq_check.py                           everything that docs/accuracy/ptq_check.json does not have yet
python scripts/ptq_check.py --again ours --models stories260K

Each comparison is made with several draws of calibration tokens: the spread of the differences is the noise.
llmcompressor runs in its own environment (``scripts/engines.sh llmcompressor``) and saves compressed-tensors files,
which are scored here like ours. Both sides store float32 scales. Models and texts are those of ``QAT_SHARED_DATA``.
Exit code 1: ours is worse than theirs by more than noise.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from qat.cli import quiet

quiet.libraries()  # before they are imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from compressed_tensors.quantization import QuantizationStrategy  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from rich.console import Console  # noqa: E402
from torch.utils.data import Subset  # noqa: E402

from qat.checkpoint import QuantizedCheckpoint  # noqa: E402
from qat.config.check import check, instantiate  # noqa: E402
from qat.config.compose import component, compose  # noqa: E402
from qat.engines.transformers import TransformersEngine  # noqa: E402
from qat.environments import ON_THE_CPU, ForeignPython  # noqa: E402
from qat.errors import InputError, QatError, RunError  # noqa: E402
from qat.evaluate.forward import Forward  # noqa: E402
from qat.evaluate.score import score  # noqa: E402
from qat.grid import qrange  # noqa: E402
from qat.jobs.stages import inputs  # noqa: E402
from qat.models.outputs import head_names  # noqa: E402
from qat.observers import GridSpec, Observer  # noqa: E402
from qat.observers.minmax import MinMax  # noqa: E402
from qat.observers.mse import MSE  # noqa: E402
from qat.prepare import prepare  # noqa: E402
from qat.report.environment import environment  # noqa: E402
from qat.report.metrics import Environment  # noqa: E402
from qat.restore import restore  # noqa: E402
from qat.scheme import Scheme, match  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent / "docs" / "accuracy"
MODELS = {
    "stories260K": ["recipe=stories260k/w4a16_lsq"],
    "babyllama-tok105": ["recipe=stories260k/w4a16_lsq", "model.path=${shared_data:models/babyllama-tok105}"],
    "novels-llama": ["recipe=novels_llama/w2a16_g32_lsq"],
}
"""What a model's run is composed from: its folder, its text."""
CASES = (
    ("stories260K", 4, None),
    ("stories260K", 4, 32),
    ("babyllama-tok105", 4, None),
    ("babyllama-tok105", 4, 32),
    ("novels-llama", 3, 128),
    ("novels-llama", 2, 128),
)
"""Model, bits and group size (None: one scale a channel) of symmetric weights."""
BLOCK, BATCH, TEST_BLOCKS = 256, 16, 128


@dataclass(frozen=True)
class Method:
    """An algorithm on both sides.

    Attributes:
        name: in the table.
        kind: what llmcompressor's worker runs.
        theirs: options of llmcompressor's modifier, its defaults beside them.
        config: of ours, in ``configs/ptq``.
        ours: options that are not its default.
        observers: keys of :data:`OBSERVERS` to try.
    """

    name: str
    kind: str
    theirs: dict[str, Any]
    config: str
    ours: dict[str, Any]
    observers: tuple[str, ...] = ("mse",)


METHODS = (
    Method("RTN", "rtn", {}, "rtn", {}, ("minmax", "mse")),
    Method("GPTQ", "gptq", {"actorder": None}, "gptq", {"order": "columns"}, ("minmax", "mse")),
    Method("GPTQ, act-order", "gptq", {"actorder": "static"}, "gptq", {"order": "activations"}),
    Method("AWQ", "awq", {}, "awq", {}),
)


@dataclass(frozen=True)
class TheirMinMax(MinMax):
    """Symmetric min-max as llmcompressor has it: the scale is limit / (qmax + 0.5), where ours is limit / qmax."""

    def range(self, groups: torch.Tensor, spec: GridSpec) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class."""
        _, upper = super().range(groups, spec)
        _, qmax = qrange(spec.bits)
        limit = upper / (qmax + 0.5) * qmax
        return -limit, limit


OBSERVERS: dict[str, Observer] = {"minmax": TheirMinMax(), "mse": MSE()}
"""llmcompressor's name of an observer, and ours."""
ABOUT = f"""\
Loss in nats a token on the first {TEST_BLOCKS} blocks of {BLOCK} tokens of the test split, mean of the draws. Both
sides see the same calibration tokens, have the same symmetric grid with float32 scales, and are scored alike.
Noise is twice the standard error of the mean difference.

With min-max ranges both sides start from llmcompressor's own, limit / (qmax + 0.5). Even then a scale may differ in its
last bit, and the lowest number of its group, which is a tie on this grid, goes the other way: that is all that the rows
of RTN differ by. With MSE each side searches ranges in its own way. All other options are either side's defaults: our
AWQ also searches clipping, llmcompressor's has none; our GPTQ without act-order sets the range of a group when its
columns' turn comes, llmcompressor's beforehand."""


class Row(BaseModel):
    """One comparison: losses in nats a token on the test split."""

    model: str
    scheme: str
    method: str
    observer: str
    draw: int
    float_loss: float
    theirs: float | None = None
    theirs_seconds: float | None = None
    ours: float | None = None
    ours_seconds: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What it compares."""
        return self.model, self.scheme, self.method, self.observer, self.draw


class Check(BaseModel):
    """All rows, and where they come from."""

    command: str
    environment: Environment
    llmcompressor: str
    calibration_tokens: int
    rows: list[Row] = []


def scheme_of(bits: int, group: int | None) -> tuple[str, Scheme]:
    """The scheme's name in the table, and the scheme."""
    strategy = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
    weights = {"num_bits": bits, "symmetric": True, **strategy}
    groups = {"weights": {"targets": ["Linear"], "weights": weights}}
    name = f"W{bits} channel" if group is None else f"W{bits} g{group}"
    return name, Scheme(groups, scale_format="fp32", group_fallback="channel")


class Case:
    """One model and scheme: its tokens, and how either side is measured."""

    def __init__(self, model: str, bits: int, group: int | None, calibration_blocks: int) -> None:
        self.model = model
        self.scheme_name, self.scheme = scheme_of(bits, group)
        words = [f"trainer.block_size={BLOCK}", f"trainer.batch_size={BATCH}", "trainer.device=cpu"]
        run = check(compose([*MODELS[model], *words]))
        self.inputs = inputs.load(run)
        test = self.inputs.tokens("test")
        self.test = Subset(test, range(min(TEST_BLOCKS, len(test))))
        self.calibration_blocks = calibration_blocks
        self.float_loss = self.loss(self.inputs.loaded.model)

    def loss(self, model: torch.nn.Module | Forward) -> float:
        """Nats a token on the test split."""
        found = score(model, self.test, BATCH).loss
        assert found is not None
        return found

    def tokens(self, draw: int) -> torch.Tensor:
        """Calibration tokens, int64 [blocks, length]: each draw has its own part of the training split."""
        blocks, first = self.inputs.tokens("train"), draw * self.calibration_blocks
        if first + self.calibration_blocks > len(blocks):
            raise InputError(
                f"{self.model}: its training split has no {draw + 1} draws; take fewer --draws or --blocks"
            )
        return torch.stack([blocks[first + row]["input_ids"] for row in range(self.calibration_blocks)])

    def config_groups(self, observer: str) -> dict[str, Any]:
        """The scheme as llmcompressor takes it: every module by its name."""
        model = self.inputs.loaded.model
        groups: dict[str, Any] = {}
        for name, matched in match(self.scheme, model, head_names(model)).items():
            args, strategy = matched.weights, QuantizationStrategy(matched.weights.strategy).value
            options = {"num_bits": args.num_bits, "symmetric": args.symmetric, "group_size": args.group_size}
            options |= {"strategy": strategy, "observer": observer}
            groups.setdefault(strategy, {"targets": [], "weights": options})["targets"].append(name)
        return groups

    def theirs(self, rows: list[Row], python: ForeignPython) -> None:
        """Let llmcompressor quantize what ``rows``, of one draw, ask for; score it."""
        with tempfile.TemporaryDirectory(prefix="qat-ptq-check-") as place:
            folder = Path(place)
            np.save(folder / "tokens.npy", self.tokens(rows[0].draw).numpy())
            jobs = [
                {
                    "name": f"{index}",
                    "method": method.kind,
                    "options": method.theirs,
                    "config_groups": self.config_groups(row.observer),
                }
                for index, row in enumerate(rows)
                for method in METHODS
                if method.name == row.method
            ]
            plan = {"model": self.inputs.loaded.path, "batch_size": BATCH, "jobs": jobs}
            (folder / "jobs.json").write_text(json.dumps(plan), encoding="utf-8")
            script = Path(__file__).with_name("ptq_check_worker.py")
            done = subprocess.run(
                python.command(str(script), place), env=os.environ | ON_THE_CPU, capture_output=True, text=True
            )
            if done.returncode:
                raise RunError(f"llmcompressor failed: {done.stderr.strip()[-2000:]}")
            seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
            for index, row in enumerate(rows):
                engine = TransformersEngine()
                engine.load(folder / str(index))
                row.theirs, row.theirs_seconds = self.loss(engine.logits), round(seconds[str(index)], 1)

    def ours(self, row: Row) -> None:
        """Quantize with qat; score the checkpoint."""
        method = next(method for method in METHODS if method.name == row.method)
        algorithm = instantiate(component("ptq", method.config) | method.ours, "ptq")
        algorithm = replace(algorithm, observer=OBSERVERS[row.observer])
        model = copy.deepcopy(self.inputs.loaded.model)
        prepare(model, self.scheme, observer=MinMax())
        start = time.monotonic()
        batches = [{"input_ids": part} for part in self.tokens(row.draw).split(BATCH)]
        algorithm.run(model, batches)
        row.ours_seconds = round(time.monotonic() - start, 1)
        row.ours = self.loss(restore(QuantizedCheckpoint.freeze(model, self.scheme, self.inputs.loaded.task)))


def wanted(case: Case, draws: int) -> Iterator[Row]:
    """The comparisons of a case; round to nearest reads no tokens, so one draw is all."""
    for draw in range(draws):
        for method in METHODS:
            for observer in method.observers:
                if method.kind != "rtn" or draw == 0:
                    yield Row(
                        model=case.model,
                        scheme=case.scheme_name,
                        method=method.name,
                        observer=observer,
                        draw=draw,
                        float_loss=case.float_loss,
                    )


@dataclass(frozen=True)
class Compared:
    """The draws of one comparison.

    Attributes:
        difference: ours - theirs, mean of the draws.
        noise: twice the standard error of that mean; None of a single draw.
    """

    rows: list[Row]
    difference: float | None
    noise: float | None

    @property
    def verdict(self) -> str:
        """``better``, ``within noise``, ``worse``, or empty where nothing can be said."""
        if self.difference is None or self.noise is None:
            return ""
        if abs(self.difference) <= self.noise:
            return "within noise"
        return "better" if self.difference < 0 else "worse"


def compare(rows: list[Row]) -> list[Compared]:
    """Rows of the same comparison, put together."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.key[:-1]].append(row)
    compared = []
    for group in groups.values():
        differences = [row.ours - row.theirs for row in group if row.ours is not None and row.theirs is not None]
        noise = 2 * stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
        compared.append(Compared(group, mean(differences) if differences else None, noise))
    return compared


def markdown(found: Check) -> str:
    """The page: what was done, and a table of every comparison."""
    where = found.environment
    head = [
        "# GPTQ and AWQ against llmcompressor",
        "",
        f"Made by `{found.command}` at commit {where.commit} with llmcompressor {found.llmcompressor}, torch "
        f"{where.versions.get('torch')}, on {where.platform} with {where.cpus} processors"
        f"{f' and {where.accelerator}' if where.accelerator else ''}, from {found.calibration_tokens} calibration "
        "tokens a draw.",
        "",
        ABOUT,
        "",
        "| model | scheme | method | ranges | draws | float | llmcompressor | qat | difference | noise | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(table_line, compare(found.rows))]) + "\n"


def table_line(one: Compared) -> str:
    """One comparison as a row of the table."""
    first = one.rows[0]
    # Means of the same draws, where there are any that both sides have, so that their difference is the one shown.
    rows = [row for row in one.rows if row.theirs is not None and row.ours is not None] or one.rows
    sides = [[value for row in rows if (value := getattr(row, side)) is not None] for side in ("theirs", "ours")]
    losses = [first.float_loss, *(mean(values) if values else None for values in sides)]
    cells = [first.model, first.scheme, first.method, first.observer, str(min(map(len, sides)))]
    cells += ["" if loss is None else f"{loss:.4f}" for loss in losses]
    cells += ["" if one.difference is None else f"{one.difference:+.4f}"]
    cells += ["" if one.noise is None else f"{one.noise:.4f}", one.verdict]
    return f"| {' | '.join(cells)} |"


def parse(words: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--sides", nargs="+", choices=["theirs", "ours"], default=["theirs", "ours"])
    parser.add_argument("--again", nargs="*", choices=["theirs", "ours"], default=[], help="measure these anew")
    parser.add_argument("--draws", type=int, default=3, help="of calibration tokens")
    parser.add_argument("--blocks", type=int, default=32, help=f"of {BLOCK} calibration tokens a draw")
    parser.add_argument(
        "--json", type=Path, default=DOCS / "ptq_check.json", help="where the numbers go; .md beside it"
    )
    return parser.parse_args(words)


def measure(options: argparse.Namespace, found: Check, python: ForeignPython, console: Console) -> None:
    """Fill ``found`` row by row, and save it after each."""
    rows = {row.key: row for row in found.rows}

    def save() -> None:
        found.rows = list(rows.values())
        options.json.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        options.json.with_suffix(".md").write_text(markdown(found), encoding="utf-8")

    for model, bits, group in CASES:
        if model not in options.models:
            continue
        case = Case(model, bits, group, options.blocks)
        mine = [rows.setdefault(row.key, row) for row in wanted(case, options.draws)]
        for draw in range(options.draws if "theirs" in options.sides else 0):
            todo = [row for row in mine if row.draw == draw and (row.theirs is None or "theirs" in options.again)]
            if todo:
                console.print(f"{model} {case.scheme_name}: llmcompressor, draw {draw}, {len(todo)} rows")
                case.theirs(todo, python)
                save()
        for row in mine if "ours" in options.sides else []:
            if row.ours is None or "ours" in options.again:
                case.ours(row)
                console.print(f"{model} {case.scheme_name} {row.method} {row.observer} {row.draw}: {row.ours:.4f}")
                save()


def main(words: list[str]) -> int:
    """Run what the command line asks for."""
    options = parse(words)
    python = ForeignPython("llmcompressor", "llmcompressor")
    if "theirs" in options.sides and (absent := python.missing()) is not None:
        raise InputError(f"llmcompressor: {absent}")
    found = Check(
        command=shlex.join(["python", "scripts/ptq_check.py", *words]),
        environment=environment(),
        llmcompressor=python.version("llmcompressor") or "",
        calibration_tokens=options.blocks * BLOCK,
    )
    if options.json.is_file():
        found.rows = Check.model_validate_json(options.json.read_text(encoding="utf-8")).rows
    options.json.parent.mkdir(parents=True, exist_ok=True)
    measure(options, found, python, Console(stderr=True, highlight=False))
    Console().print(f"written: {options.json}", markup=False, highlight=False, soft_wrap=True)
    worse = [one for one in compare(found.rows) if one.verdict == "worse" and one.rows[0].method != "RTN"]
    for one in worse:
        first = one.rows[0]
        print(f"worse by {one.difference:.4f}: {first.model} {first.scheme} {first.method} {first.observer}")
    return 1 if worse else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except QatError as error:
        print(f"ptq_check: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
