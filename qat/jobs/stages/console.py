"""What a job says on the way: plain lines and tables on standard output."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.text import Text


def say(line: str, style: str = "") -> None:
    """Print one line as it is: no markup in it, and a long path is not broken."""
    Console().print(Text(line, style), soft_wrap=True)


def begin(stage: str) -> None:
    """Say that a slow stage begins, where standard error is no terminal and so shows no bar and no spinner."""
    if not Console(stderr=True).is_terminal:
        say(f"{stage} ...")


def show(*tables: RenderableType) -> None:
    """Print tables with an empty line behind each."""
    console = Console()
    for table in tables:
        console.print(table)
        console.print()
