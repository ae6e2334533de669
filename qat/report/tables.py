"""How tables and numbers look on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

DASH = "-"


def plain_table(title: str, caption: str | None = None) -> Table:
    """An empty table with a line under its headings only."""
    return Table(
        title=title, title_justify="left", title_style="bold", caption=caption, caption_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip


def number(value: float | None, form: Callable[[float], str]) -> str:
    """``value`` as ``form`` writes it; a dash for what was not measured."""
    return DASH if value is None else form(value)


def perplexity(value: float) -> str:
    """Three digits behind the point while they say something."""
    return f"{value:.3f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def rate(value: float) -> str:
    """Tokens a second in five characters.

    Example:
        >>> rate(850.3), rate(23512.2), rate(3.14159)
        ('850', '23.5k', '3.1')
    """
    return f"{value:.1f}" if value < 10 else f"{value:.0f}" if value < 9999.5 else f"{value / 1000:.3g}k"


def human_bytes(count: int | None) -> str:
    """``1234567`` -> ``1.23 MB`` (powers of 1000)."""
    if count is None:
        return DASH
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5 or unit == "TB":
            break
    return f"{size:.3g} {unit}"
