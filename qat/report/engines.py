"""One engine's numbers as the cells of a table."""

from __future__ import annotations

from qat.report.metrics import EngineResult
from qat.report.tables import DASH, human_bytes, number, perplexity, rate

STATUS = {"ok": "ok", "not_available": "not available", "failed": "failed"}
"""What a reader is told of each status."""
STYLE = {"ok": "", "not_available": "yellow", "failed": "bold red"}
"""How a terminal shows it."""
HEADINGS = ("≠ in\nengine", "Δ logit", "ppl", "greedy", "prompt", "gen.", "memory")
"""Headings of :func:`engine_cells` on a terminal of 80 columns."""


def engine_cells(result: EngineResult) -> list[str]:
    """Seven cells; a dash for what was not measured."""
    greedy = DASH if result.greedy_tokens_equal is None else "{}/{}".format(*result.greedy_tokens_equal)
    return [
        number(result.weights_different, "{:,}".format),
        number(result.max_logit_difference, "{:.1e}".format),
        number(result.perplexity, perplexity),
        greedy,
        number(result.prompt_tokens_per_second, rate),
        number(result.generated_tokens_per_second, rate),
        human_bytes(result.peak_memory_bytes),
    ]
