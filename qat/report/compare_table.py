"""``compare.json`` for readers: Markdown to be committed, and a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from qat.report.compare import LEAST_LOST, RECOVERIES, TUNED_FLOAT, Comparison, RowResult, Statistics
from qat.report.metrics import Quality
from qat.report.tables import DASH, human_bytes, number, perplexity, plain_table

RECIPE, TORCHAO = "recipe", "torchao"
HEADINGS = (
    *("row", "loss", "perplexity", "top-1", "KL", "recovery, RTN", "recovery, best PTQ"),
    *("size", "tokens", "seconds", "chosen"),
)
_COLUMNS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("loss", "{:.4f}".format),
    ("perplexity", perplexity),
    ("top1_agreement", "{:.1%}".format),
    ("kl", "{:.4f}".format),
    (RECOVERIES[0], "{:.1%}".format),
    (RECOVERIES[1], "{:.1%}".format),
)
_SPREAD = ("loss", *RECOVERIES)  # measures whose standard deviation is shown


def markdown(comparison: Comparison) -> str:
    """A page with the table, what made it, what was left out and what was chosen."""
    parts = [f"# {comparison.model}, {comparison.scheme}", "", *_origin(comparison), "", *_rows(comparison)]
    for section in (_verdicts(comparison), _left_out(comparison), _chosen(comparison)):
        if lines := [*section]:
            parts += ["", *lines]
    return "\n".join(parts) + "\n"


def terminal(comparison: Comparison) -> RenderableType:
    """The same in short; fits 80 columns."""
    caption = "test split, mean of the seeds; rec.: share won back of what PTQ lost"
    table = plain_table(f"{comparison.model}, {comparison.scheme}", caption)
    table.add_column("row", overflow="fold", min_width=12)
    for heading in ("loss", "± std", "top-1", "KL", "rec. RTN", "rec. PTQ", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    base = comparison.base
    table.add_row("float", number(base.loss, "{:.4f}".format), *[DASH] * 5, human_bytes(base.bytes))
    for row in comparison.rows:
        got = dict(zip([name for name, _ in _COLUMNS], _cells(row, spread=False), strict=True))
        loss = row.statistics.get("loss")
        spread = DASH if loss is None else number(loss.std, "{:.4f}".format)
        values = [got["loss"], spread, *(got[key] for key in ("top1_agreement", "kl", *RECOVERIES))]
        table.add_row(row.title, *values, human_bytes(row.bytes), style="bold" if row.name == RECIPE else None)
    lines = [Text(line.removeprefix("- ")) for line in (*_verdicts(comparison), *_left_out(comparison)) if line]
    return Group(Text(), table, *lines)


def _origin(comparison: Comparison) -> Iterator[str]:
    machine, budget = comparison.environment, comparison.budget
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()) if name != "qat")
    yield f"Made by `{comparison.command}` at commit {machine.commit or 'unknown'}"
    hardware = machine.accelerator or "no accelerator"
    yield f"on {machine.platform}, {machine.cpus} CPUs, {hardware}, Python {machine.python}, {versions}."
    yield ""
    chosen = f", chosen on {budget.validation_tokens:,} of the validation split" if budget.validation_tokens else ""
    yield (
        f"Budget: {budget.steps:,} steps of {budget.tokens // budget.steps:,} tokens for the tuned float and for every "
        f"trained row, seeds {', '.join(map(str, comparison.seeds))}; {budget.trainings} trainings, candidates "
        f"included, and {budget.seconds:,.0f} s in all. Scored on {budget.test_tokens:,} tokens of the test "
        f"split{chosen}."
    )


def _rows(comparison: Comparison) -> Iterator[str]:
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|---|{'---:|' * (len(HEADINGS) - 2)}---|"
    yield f"| {' | '.join(['float', *_quality_cells(comparison.base)])} |"
    for row in comparison.rows:
        title = f"**{row.title}**" if row.name == comparison.best_ptq else row.title
        cells = [title, *_cells(row, spread=True), human_bytes(row.bytes)]
        cells += [number(row.tokens, "{:,}".format), number(row.seconds, "{:,.1f}".format)]
        yield f"| {' | '.join([*cells, ' '.join(row.settings) or DASH])} |"
    best = "there is none" if comparison.best_ptq is None else f"{comparison.best_ptq}, bold"
    yield ""
    yield (
        "Losses are nats a token, mean ± standard deviation over the seeds; top-1 and KL are against the float model "
        f"as it came. Recovery is the share won back of what RTN, and the best PTQ row ({best}), lose to the "
        f"{_reference(comparison)}; there is none where they lose less than {LEAST_LOST:g}. Tokens are those of the "
        "row's own training."
    )


def _reference(comparison: Comparison) -> str:
    found = {one.against for row in comparison.rows for one in row.seeds if one.against is not None}
    names = {"tuned_float": "tuned float", "base": "float model, which is better than the tuned one"}
    return " or the ".join(names[one] for one in sorted(found, reverse=True)) or "float model"


def _quality_cells(quality: Quality) -> list[str]:
    measured = [number(getattr(quality, name), form) for name, form in _COLUMNS[:4]]
    return [*measured, DASH, DASH, human_bytes(quality.bytes), DASH, DASH, DASH]


def _cells(row: RowResult, spread: bool) -> list[str]:
    return [_cell(row.statistics.get(name), form, spread and name in _SPREAD) for name, form in _COLUMNS]


def _cell(found: Statistics | None, form: Callable[[float], str], spread: bool) -> str:
    if found is None:
        return DASH
    return form(found.mean) + (f" ± {form(found.std)}" if spread and found.std is not None else "")


def _verdicts(comparison: Comparison) -> Iterator[str]:
    """The recipe against its opponents; a difference counts where no seed of one reaches any seed of the other."""
    rows = {row.name: row for row in comparison.rows}
    own = rows[RECIPE].statistics.get("loss") if RECIPE in rows else None
    for name in (comparison.best_ptq or "", TORCHAO, TUNED_FLOAT):
        other = rows[name].statistics.get("loss") if name in rows else None
        if own is None or other is None:
            continue
        if own.std is None or other.std is None:
            verdict = "of a single seed, so how much of it is chance is not known"
        elif own.most < other.least:
            verdict = "better with every seed"
        elif own.least > other.most:
            verdict = "worse with every seed"
        else:
            verdict = "within the spread of the seeds, so no better and no worse"
        against = f"{rows[name].title}{' (the best PTQ)' if name == comparison.best_ptq else ''}"
        yield f"- The recipe against {against}: {own.mean - other.mean:+.4f} nats a token, {verdict}."


def _left_out(comparison: Comparison) -> Iterator[str]:
    for row in comparison.rows:
        if row.reason is not None:
            yield f"- {row.title} was left out: {row.reason}"


def _chosen(comparison: Comparison) -> Iterator[str]:
    """The candidates and their losses on the validation split."""
    tuned = [row for row in comparison.rows if row.validation]
    if not tuned:
        return
    yield f"Chosen with seed {comparison.seeds[0]} by the loss on the validation split:"
    yield ""
    yield "| row | candidate | validation loss |"
    yield "|---|---|---:|"
    for row in tuned:
        for candidate, loss in row.validation.items():
            mark = "**" if candidate == " ".join(row.settings) else ""
            yield f"| {row.title} | {mark}{candidate}{mark} | {'diverged' if loss is None else f'{loss:.4f}'} |"
