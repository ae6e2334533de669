"""Write the table of tables: one line a model and width, from every compare.json below a folder, to its README.md.

python scripts/accuracy_index.py docs/accuracy
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from qat.errors import InputError
from qat.report.compare import RECOVERIES, RTN, TUNED_FLOAT, Comparison, RowResult
from qat.report.compare_table import RECIPE, TORCHAO
from qat.report.tables import number

HEADINGS = (
    "recipe",
    "scheme",
    "tuned float",
    "RTN",
    "best PTQ",
    "torchao QAT",
    "ours",
    "of RTN's",
    "of the best PTQ's",
)


def main(folder: Path) -> None:
    """Write ``<folder>/README.md``."""
    paths = sorted(folder.rglob("compare.json"))
    if not paths:
        raise InputError(f"{folder} holds no compare.json; make one with scripts/accuracy_table.sh")
    (folder / "README.md").write_text("\n".join(page(folder, paths)) + "\n", encoding="utf-8")
    print(f"{folder / 'README.md'}: {len(paths)} tables")


def page(folder: Path, paths: list[Path]) -> Iterator[str]:
    """The lines of the page."""
    yield "# Accuracy"
    yield ""
    yield "Loss on the test split in nats a token, mean of the seeds; how to read it: [accuracy.md](../accuracy.md)."
    yield "Ours is the recipe as it is; the last two columns are its recovery, the share won back of what PTQ lost."
    yield ""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|---|---|{'---:|' * (len(HEADINGS) - 2)}"
    for path in paths:
        found = Comparison.model_validate_json(path.read_text(encoding="utf-8"))
        place = path.parent.relative_to(folder).as_posix()
        yield f"| [{found.recipe or found.model}]({place}/table.md) | {found.scheme} | {' | '.join(_cells(found))} |"


def _cells(found: Comparison) -> Iterator[str]:
    rows = {row.name: row for row in found.rows}
    for name in (TUNED_FLOAT, RTN, found.best_ptq or "", TORCHAO, RECIPE):
        title = f" ({rows[name].title})" if name == found.best_ptq and name != RTN else ""
        yield number(_mean(rows, name, "loss"), "{:.4f}".format) + title
    for measure in RECOVERIES:
        yield number(_mean(rows, RECIPE, measure), "{:.1%}".format)


def _mean(rows: Mapping[str, RowResult], name: str, measure: str) -> float | None:
    found = rows[name].statistics.get(measure) if name in rows else None
    return None if found is None else found.mean


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} <folder>")
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(str(error))
