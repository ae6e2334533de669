"""The table that ends a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qat.report.exports import export_parts
from qat.report.metrics import Metrics, QATQuality, Quality
from qat.report.tables import DASH, human_bytes, number, perplexity, plain_table

_NAMES = {"tuned_float": "tuned float", "base": "float"}


def print_summary(metrics: Metrics, folder: Path | None = None, console: Console | None = None) -> None:
    """Print :func:`summary` to ``console`` (default: standard output)."""
    (console or Console()).print(summary(metrics, folder))


def summary(metrics: Metrics, folder: Path | None = None) -> RenderableType:
    """Quality of every model, recovery, exports, and where the results lie; fits 80 columns.

    Args:
        metrics: what the run measured.
        folder: the run folder, named at the end.
    """
    rows = [*_rows(metrics)]
    if all(quality.loss is None and quality.cosine is None for _, quality in rows):
        rows = []  # nothing was scored
    parts: list[RenderableType] = [Text()]
    if rows:
        parts += [_quality_table(metrics, rows), *_recovery_lines(metrics.qat)]
    if metrics.exports:
        parts += [*([Text()] if rows else []), *export_parts(metrics.exports)]
    parts += _closing_lines(metrics, folder)
    return Group(*parts)


def _quality_table(metrics: Metrics, rows: list[tuple[str, Quality]]) -> Table:
    encoder = any(quality.cosine is not None for _, quality in rows)
    table = plain_table(f"{metrics.model}, {metrics.scheme}")
    table.add_column("model", overflow="fold", min_width=11)
    headings = ["cosine", "MSE", "size"] if encoder else ["loss", "ppl", "Δ ppl", "top-1", "KL", "size"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    reference = metrics.tuned_float or metrics.base
    if reference is not None and not encoder and any(quality is not reference for _, quality in rows):
        table.caption = f"Δ ppl: against the {'float' if metrics.tuned_float is None else 'tuned float'}"
    for name, quality in rows:
        cells = _encoder_cells(quality) if encoder else _language_cells(quality, reference)
        table.add_row(name, *cells, human_bytes(quality.bytes), style="bold" if quality is metrics.qat else None)
    return table


def _rows(metrics: Metrics) -> Iterator[tuple[str, Quality]]:
    if metrics.base is not None:
        yield "float", metrics.base
    if metrics.tuned_float is not None:
        yield "tuned float", metrics.tuned_float
    for method, quality in metrics.ptq.items():
        yield f"PTQ {method} (tuned)" if quality.of == "tuned_float" else f"PTQ {method}", quality
    if metrics.qat is not None:
        yield "QAT", metrics.qat


def _language_cells(quality: Quality, reference: Quality | None) -> list[str]:
    delta = DASH
    if reference is not None and quality is not reference and quality.perplexity and reference.perplexity:
        delta = _change(quality.perplexity / reference.perplexity)
    return [
        number(quality.loss, "{:.4f}".format),
        number(quality.perplexity, perplexity),
        delta,
        number(quality.top1_agreement, "{:.1%}".format),
        number(quality.kl, "{:.4f}".format),
    ]


def _encoder_cells(quality: Quality) -> list[str]:
    return [number(quality.cosine, "{:.5f}".format), number(quality.mse, "{:.3g}".format)]


def _recovery_lines(qat: QATQuality | None) -> Iterator[Text]:
    if qat is None:
        return
    against = _NAMES[qat.recovery_against]
    for method, value in qat.recovery.items():
        line = Text(f"recovery against PTQ {method} of {against}: ")
        if value is None:
            yield line.append(f"undefined, {qat.recovery_undefined.get(method, 'no loss')}", style="yellow")
        else:
            yield line.append(f"{value:.1%}", style="bold green" if value > 0 else "bold red")


def _closing_lines(metrics: Metrics, folder: Path | None) -> Iterator[Text]:
    train = metrics.train
    facts = []
    if train is not None and train.seconds is not None:
        facts.append(f"training took {train.seconds:.0f} s")
    if train is not None and train.tokens_per_second is not None:
        facts.append(f"{train.tokens_per_second:,.0f} tokens/s")
    if train is not None and train.peak_memory_bytes is not None:
        facts.append(f"peak memory {human_bytes(train.peak_memory_bytes)}")
    if facts:
        yield Text()
        yield Text(", ".join(facts), style="dim")
    if metrics.unmeasured is not None:
        yield Text(f"not scored: {metrics.unmeasured}", style="yellow")
    if folder is not None:
        yield Text(f"results: {folder}", style="bold", overflow="fold")


def _change(ratio: float) -> str:
    return f"{ratio - 1:+.2%}" if ratio < 10 else f"x{ratio:,.0f}"
