"""Test loss after PTQ of an allocation of ``qat allocate`` and of everything it is compared with, as a Markdown table.

    .venv/bin/python scripts/mixed_precision.py outputs/<recipe>/<time>/allocations/3.5_bits rtn_mse gptq

Every scheme file of the folder goes through ``qat ptq`` with every algorithm that is named, on the model and data of
the sensitivity's run; each result is a run folder in ``ptq/<algorithm>/<allocation>`` beside the schemes, and one that
is there is not made again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qat.cli.main import main as qat
from qat.config import record
from qat.mixed_precision.result import Result

# Of the sensitivity's run, what a PTQ run has no use for or sets itself.
_OWN = ("run_dir", "widths", "granularity", "scheme", "ptq", "export", "engine", "evaluate.generate")


def main(words: list[str]) -> int:
    """Run the command; the table goes to standard output."""
    if len(words) < 2:
        print((__doc__ or "").splitlines()[2].strip(), file=sys.stderr)
        return 2
    folder, algorithms = Path(words[0]), words[1:]
    result = Result.model_validate_json((folder / "allocation.json").read_text(encoding="utf-8"))
    given = record.read_overrides(folder.parent.parent)
    overrides = [word for word in given if word.partition("=")[0] not in _OWN]
    lines = [f"| allocation | bits | {result.measure} predicted | measured | {' | '.join(algorithms)} |"]
    lines.append("|---|---|---|---|" + "---|" * len(algorithms))
    for row in result.rows:
        path = folder / ("scheme.yaml" if row is result.chosen else f"compared/{row.name}.yaml")
        losses = [loss(folder / "ptq" / name / row.name, path, name, overrides) for name in algorithms]
        shown = " | ".join(f"{value:.4f}" for value in losses)
        lines.append(f"| `{row.name}` | {row.bits:.3f} | {row.predicted:.4f} | {row.measured:.4f} | {shown} |")
    print("\n".join(lines))
    return 0


def loss(run: Path, scheme: Path, algorithm: str, overrides: list[str]) -> float:
    """Test loss in nats a token of one scheme by one algorithm."""
    if not (run / "metrics.json").is_file():
        words = [*overrides, f"scheme='{scheme}'", f"ptq={algorithm}", f"run_dir='{run}'", "export=[]", "engine=[]"]
        code = qat(["ptq", *words, "evaluate.generate=false"])
        if code:
            raise SystemExit(code)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return float(metrics["ptq"][algorithm]["loss"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
