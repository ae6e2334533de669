"""scripts/accuracy_table.sh names recipes that exist; scripts/accuracy_index.py makes a line of every table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from qat.config.compose import choices
from qat.report.compare import Budget, Comparison, RowResult, SeedResult, summarize
from qat.report.metrics import Environment, Quality, write


def test_every_recipe_of_the_grid_is_there(root: Path) -> None:
    text = (root / "scripts" / "accuracy_table.sh").read_text()
    (grid,) = re.findall(r'^grid="(.*?)"$', text, re.S | re.M)
    recipes = grid.split()
    assert set(recipes) <= set(choices("recipe"))
    assert len(recipes) == len(set(recipes)) == 17


def test_an_option_is_refused(root: Path) -> None:
    words = ["bash", str(root / "scripts" / "accuracy_table.sh"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_the_index_has_a_line_for_every_table(root: Path, tmp_path: Path) -> None:
    losses = {"tuned_float": ("float", 1.0), "rtn": ("ptq", 2.0), "gptq": ("ptq", 1.5), "recipe": ("trained", 1.1)}
    rows = [
        RowResult(
            name=name, title=name, kind=kind, seeds=[SeedResult(row=name, seed=0, quality=Quality(loss=loss))]
        )
        for name, (kind, loss) in losses.items()
    ]  # fmt: skip
    base = Quality(loss=1.4)
    rows, best = summarize(rows, base)
    table = Comparison(
        recipe="tiny/w4", model="tiny", scheme="w4a16", command="qat compare", seeds=[0], base=base, best_ptq=best,
        budget=Budget(steps=1, tokens=1, trainings=1, seconds=1.0, test_tokens=1), rows=rows,
        environment=Environment(python="3.11", platform="Linux", cpus=1),
    )  # fmt: skip
    write(table, tmp_path / "tiny" / "w4" / "compare.json")
    words = [sys.executable, str(root / "scripts" / "accuracy_index.py"), str(tmp_path)]
    subprocess.run(words, check=True, env={"PYTHONPATH": str(root)}, capture_output=True)
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[-1] == (
        "| [tiny/w4](tiny/w4/table.md) | w4a16 | 1.0000 | 2.0000 | 1.5000 (gptq) | - | 1.1000 | 90.0% | 80.0% |"
    )
