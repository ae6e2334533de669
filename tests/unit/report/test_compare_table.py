"""The table for readers: its cells, verdicts, and what it says of rows that were left out."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from qat.report.compare import Budget, Comparison, RowResult, SeedResult, summarize
from qat.report.compare_plot import figure
from qat.report.compare_table import markdown, terminal
from qat.report.metrics import Environment, Quality


def row(name: str, title: str, kind: str, losses: list[float], **changes: object) -> RowResult:
    seeds = [
        SeedResult(row=name, seed=seed, quality=Quality(loss=loss, perplexity=2.5, bytes=1200), tokens=600, seconds=2.0)
        for seed, loss in enumerate(losses)
    ]
    return RowResult(name=name, title=title, kind=kind, seeds=seeds, **changes)


def comparison(recipe: list[float], torchao: list[float]) -> Comparison:
    base = Quality(loss=1.5, perplexity=4.48, bytes=9600)
    grid = {"optimizer.lr=0.001": 1.21, "optimizer.lr=0.01": None}
    rows, best = summarize(
        [
            row("tuned_float", "tuned float", "float", [1.0, 1.0]),
            row("rtn", "RTN", "ptq", [2.0, 2.0]),
            row("smoothquant", "SmoothQuant", "ptq", [], reason="the scheme quantizes no activations"),
            row("recipe", "the recipe", "trained", recipe),
            row("torchao", "torchao QAT", "trained", torchao, settings=["optimizer.lr=0.001"], validation=grid),
        ],
        base,
    )
    return Comparison(
        recipe="a/b", model="tiny", scheme="w4a16_channel", command="qat compare recipe=a/b", seeds=[0, 1], base=base,
        best_ptq=best, rows=rows,
        budget=Budget(
            steps=3, tokens=600, trainings=8, seconds=12.4, test_tokens=4096, validation_tokens=2048
        ),
        environment=Environment(python="3.11", platform="Linux", cpus=2, versions={"torch": "2.13"}, commit="abc"),
    )  # fmt: skip


def test_markdown_says_what_was_measured_and_how() -> None:
    page = markdown(comparison([1.19, 1.21], [1.3, 1.3]))
    assert page.startswith("# tiny, w4a16_channel\n")
    assert "Made by `qat compare recipe=a/b` at commit abc" in page
    assert "Budget: 3 steps of 200 tokens" in page
    assert "8 trainings, candidates included, and 12 s in all" in page
    assert "4,096 tokens of the test split, chosen on 2,048 of the validation split." in page
    assert (
        "| the recipe | 1.2000 ± 0.0141 | 2.500 | - | - | 80.0% ± 1.4% | 80.0% ± 1.4% | 1.2 kB | 600 | 2.0 | - |"
        in page
    )
    assert "| **RTN** | 2.0000 ± 0.0000 |" in page
    assert "- SmoothQuant was left out: the scheme quantizes no activations" in page
    assert "| torchao QAT | **optimizer.lr=0.001** | 1.2100 |" in page
    assert "| torchao QAT | optimizer.lr=0.01 | diverged |" in page


def test_a_difference_counts_only_where_the_seeds_do_not_overlap() -> None:
    page = markdown(comparison([1.19, 1.21], [1.3, 1.3]))
    assert "- The recipe against RTN (the best PTQ): -0.8000 nats a token, better with every seed." in page
    assert "- The recipe against torchao QAT: -0.1000 nats a token, better with every seed." in page
    assert "- The recipe against tuned float: +0.2000 nats a token, worse with every seed." in page
    page = markdown(comparison([1.19, 1.31], [1.3, 1.3]))
    assert "against torchao QAT: -0.0500 nats a token, within the spread of the seeds" in page


def test_one_seed_is_no_verdict() -> None:
    page = markdown(comparison([1.19], [1.3, 1.3]))
    assert "against torchao QAT: -0.1100 nats a token, of a single seed, so how much of it is chance" in page
    assert "with every seed" not in page


def test_the_table_of_a_terminal_fits_80_columns() -> None:
    stream = StringIO()
    Console(file=stream, width=80).print(terminal(comparison([1.19, 1.21], [1.3, 1.3])))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if line.lstrip().startswith("the recipe"))
    assert line.split() == ["the", "recipe", "1.2000", "0.0141", "-", "-", "80.0%", "80.0%", "1.2", "kB"]


def test_the_plot_has_every_row_with_its_spread() -> None:
    plot = figure(comparison([1.19, 1.25], [1.3, 1.3]))
    trained = next(trace for trace in plot.data if trace.name == "trained")
    assert [*trained.y] == ["the recipe", "torchao QAT"]
    assert [round(value, 6) for value in trained.x] == [1.22, 1.3]
    assert round(trained.error_x.array[0], 6) == round(trained.error_x.arrayminus[0], 6) == 0.03
    assert [*plot.layout.yaxis.categoryarray] == ["torchao QAT", "the recipe", "RTN", "tuned float"]
