"""What a run of ``scripts/engine_matrix.py`` found: the schema of ``docs/engines.json``."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from qat.report.metrics import EngineResult, Environment, ExportResult


class Row(BaseModel):
    """One scheme in one format.

    Attributes:
        scheme: name of the preset.
        changes: options that are not the preset's, since the format needs others: name -> value.
        format: name of the export config, with the options that are not its default.
        refused: why the format does not hold the scheme; None if it does.
        perplexity: of the quantized checkpoint, computed by qat itself.
        result: what was found; None if the format refused.
    """

    model_config = ConfigDict(extra="forbid")

    scheme: str
    changes: dict[str, str] = {}
    format: str
    refused: str | None = None
    perplexity: float | None = None
    result: ExportResult | None = None

    @property
    def changed(self) -> str:
        """The changes as they would be typed; empty if there are none."""
        return ", ".join(f"{key}={value}" for key, value in self.changes.items())

    @property
    def label(self) -> str:
        """The scheme as it was quantized."""
        return ", ".join(filter(None, (self.scheme, self.changed)))

    @property
    def engines(self) -> dict[str, EngineResult]:
        """Engine -> what it made of the export; empty if there is none."""
        return {} if self.result is None else self.result.engines


class Matrix(BaseModel):
    """What one run found.

    Attributes:
        command: what was typed.
        model: name of the model.
        tokens: how many the perplexities are of.
        processor: its name, and the instruction sets that decide which kernels there are.
        environment: what ran it.
        rows: in the order in which they came.
    """

    model_config = ConfigDict(extra="forbid")

    command: str
    model: str
    tokens: int
    processor: str
    environment: Environment
    rows: list[Row] = []

    @property
    def problems(self) -> list[str]:
        """Exports that are not the checkpoint, in the file or in an engine, and engines that failed; none is usual."""
        return [problem for row in self.rows for problem in _problems(row)]


def _problems(row: Row) -> Iterator[str]:
    where = f"{row.label} in {row.format}"
    if row.result is not None and row.result.mismatches:
        yield f"{where}: {row.result.mismatches} numbers differ"
    for engine, result in row.engines.items():
        if result.status == "failed":
            yield f"{where} in {engine}: {result.reason}"
        elif result.weights_different:
            yield f"{where} in {engine}: {result.weights_different} of the weights that it computes with differ"
