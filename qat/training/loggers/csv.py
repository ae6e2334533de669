"""``metrics.csv``: one row a step, also after an interruption."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger


class CsvLogger(Logger):
    """Writes ``<run_dir>/metrics.csv``.

    Training and validation values of a step share a row. A run that resumes appends to the file, after
    dropping the rows that the interrupted run wrote beyond its last checkpoint: those at or behind the first
    step that is logged now. Numbers are written with all their digits.

    Lightning's ``CSVLogger`` deletes a file that is there, and writes one row for each call.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self._columns = ["step"]
        self._row: dict[str, Any] = {}
        self._started = False

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """A file has no version."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run folder holds the configuration in ``.hydra/``."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add ``metrics`` to the row of ``step``."""
        assert step is not None
        if not self._started:
            self._started = True
            self._rewrite([row for row in self._read() if int(row["step"]) < step])
        if self._row and self._row["step"] != step:
            self.save()
        self._row |= {"step": step, **metrics}

    def save(self) -> None:
        """Write the row in hand to the file."""
        if not self._row:
            return
        row, self._row = self._row, {}
        fresh = sorted(row.keys() - set(self._columns))
        if fresh:
            rows = self._read()
            self._columns += fresh
            self._rewrite([*rows, row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _read(self) -> list[dict[str, Any]]:
        """The rows in the file, without a last one that a kill cut off."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))
        rows = list(reader)
        self._columns = list(reader.fieldnames or ["step"])
        return rows

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
