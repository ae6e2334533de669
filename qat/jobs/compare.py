"""Compare float, PTQ methods, torchao's QAT and ours on one model, one text and one evaluator: the honest table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from rich.console import Console

from qat.config.rows import picked
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages.console import begin, say
from qat.jobs.stages.evaluation import Evaluation
from qat.jobs.stages.table_rows import ROWS, TableRows
from qat.report import metrics as report
from qat.report.compare import Budget, Comparison, RowResult, summarize
from qat.report.compare_plot import write_plot
from qat.report.compare_table import markdown, terminal
from qat.report.environment import environment

ACCEPTS = ("resume", "rows", "seeds", "tune")
JSON, TABLE, PLOT = "compare.json", "table.md", "plot.html"
_LOCAL_PATH = re.compile(r"""(?<=[=\[,"'])/[^,\]"']+""")


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command: what is in the folder is not computed again."""
    rows = picked(run.rows)
    if folder.exists:
        _refuse_change(folder)
    table = TableRows(run, folder)
    begin("checking every row")
    reasons = {row.name: table.check(row) for row in rows}
    folder.create()
    (folder.path / ROWS).mkdir(exist_ok=True)
    results: list[RowResult] = []
    for row in rows:
        results.append(table.result(row, reasons[row.name]))
        comparison = _comparison(run, folder, table, results)
        _write(comparison, folder)  # row by row, so that the table of an interrupted command can be read
    Console().print(terminal(comparison))
    say(f"results: {folder.path}", "bold")


def _comparison(run: RunConfig, folder: RunFolder, table: TableRows, results: list[RowResult]) -> Comparison:
    rows, best = summarize(results, table.base)
    trainer = table.inputs.trainer
    costs = table.costs
    quantizing = [one.seconds or 0.0 for row in rows if row.kind == "ptq" for one in row.seeds]

    def tokens(evaluation: Evaluation) -> int:
        return len(evaluation.blocks) * trainer.block_size

    return Comparison(
        recipe=run.recipe,
        model=table.inputs.loaded.name,
        scheme="/".join(Path(str(run.choices.scheme)).parts[-2:]),  # of a file not its whole path
        command=command(folder.overrides),
        seeds=table.seeds,
        base=table.base,
        best_ptq=best,
        budget=Budget(
            steps=trainer.max_steps,
            tokens=trainer.max_steps * trainer.batch_size * trainer.accumulate * trainer.block_size,
            trainings=len(costs),
            seconds=sum(cost.seconds or 0.0 for cost in costs) + sum(quantizing),
            test_tokens=tokens(table.evaluation),
            validation_tokens=tokens(table.validation) if any(row.validation for row in rows) else None,
        ),
        environment=environment(),
        rows=rows,
    )


def command(overrides: list[str]) -> str:
    """What was typed, as it may stand in a report: without the folder, and without paths of this machine.

    Example:
        >>> command(["recipe=a/b", "run_dir=x", "data.train=[/home/me/a.txt]"])
        'qat compare recipe=a/b data.train=[<path>]'
    """
    last = {word.partition("=")[0]: word for word in overrides}  # a resumed command has its words twice
    words = [_LOCAL_PATH.sub("<path>", word) for key, word in last.items() if key not in ("run_dir", "resume")]
    return " ".join(["qat", "compare", *(word if "<path>" in word else shlex.quote(word) for word in words)])


def _refuse_change(folder: RunFolder) -> None:
    """What :func:`qat.config.run_folder.choose` does not look at, and every row that is there was scored with."""
    if not (folder.path / ROWS).is_dir():
        raise InputError(f"{folder.path} is no run of qat compare, so it cannot be resumed; start a new run")
    folder.refuse_change(["evaluate"])


def _write(comparison: Comparison, folder: RunFolder) -> None:
    report.write(comparison, folder.path / JSON)
    (folder.path / TABLE).write_text(markdown(comparison), encoding="utf-8")
    write_plot(comparison, folder.path / PLOT)
