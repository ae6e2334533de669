"""Ship a trained base: take the model of a `qat train recipe=demo/base` run into the package, with its card.

qat train recipe=demo/base run_dir=base && python scripts/publish_base.py base
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from qat.paths import assets_dir

COMMAND = "qat train recipe=demo/base"


def curve(rows: list[dict[str, str]], column: str, every: int = 1) -> list[list[float]]:
    """``[step, value]`` of the rows that have the column."""
    points = [[int(row["step"]), round(float(row[column]), 4)] for row in rows if row.get(column)]
    return [point for point in points if point[0] % every == 0]


def card(run: Path) -> dict[str, Any]:
    """What is known of the model, from the run that made it."""
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    validation = curve(rows, "val/loss")
    parameters = metrics["float"]["bytes"] // 4  # scored in float32
    return {
        "command": COMMAND,
        "python": metrics["data"]["python"],
        "corpus_sha256": metrics["data"]["corpus_sha256"],
        "parameters": parameters,
        "steps": metrics["train"]["steps"],
        "tokens": metrics["train"]["tokens"],
        "tokens_per_parameter": round(metrics["train"]["tokens"] / parameters, 1),
        "validation_loss": validation[-1][1],
        "test_loss": round(metrics["float"]["loss"], 4),
        "curve": validation,
        "train_curve": [*curve(rows, "train/loss")[:10], *curve(rows, "train/loss", every=100)],
    }


def page(facts: dict[str, Any]) -> str:
    """The card for people."""
    points = "\n".join(f"| {step} | {loss:.4f} |" for step, loss in facts["curve"] if step % 200 == 0)
    return f"""# tiny_llama

The base of qat's demo: a `LlamaForCausalLM` of {facts["parameters"]:,} parameters (hidden 128, 3 layers, 4 heads, 2 of
them for keys and values, tied embeddings, context 512) with a byte-level BPE of 1024 tokens, in bfloat16.

| | |
|---|---|
| made by | `{facts["command"]}`, then `python scripts/publish_base.py <run folder>` |
| text | Python {facts["python"]}'s own standard library, training split |
| sha256 of the whole corpus | `{facts["corpus_sha256"]}` |
| tokens | {facts["tokens"]:,} in {facts["steps"]:,} steps, {facts["tokens_per_parameter"]} a parameter |
| loss on the validation split | {facts["validation_loss"]:.4f} nats a token (float32 weights, last step) |
| loss on the test split | {facts["test_loss"]:.4f} nats a token (the bfloat16 file, `qat evaluate model=tiny_llama`) |
| intended use | to show and test quantization; it writes Python-like text and knows nothing |
| licence | Apache-2.0; the text is under the Python Software Foundation licence |

## Validation loss

| step | nats a token |
|---|---|
{points}

`card.json` has every point, and training losses to compare a rebuild with.
"""


def main() -> None:
    """Copy the weights and write both cards."""
    run = Path(sys.argv[1])
    target = assets_dir() / "tiny_llama"
    facts = card(run)
    shutil.copyfile(run / "model" / "model.safetensors", target / "model.safetensors")
    (target / "card.json").write_text(json.dumps(facts, indent=1) + "\n")
    (target / "README.md").write_text(page(facts))
    print(f"{target}: {facts['parameters']:,} parameters, test loss {facts['test_loss']}")


if __name__ == "__main__":
    main()
