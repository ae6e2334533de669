"""Runs llmcompressor's algorithms; ``scripts/ptq_check.py`` calls it with the Python of llmcompressor's environment.

    python ptq_check_worker.py <folder>

``<folder>/tokens.npy`` has the calibration tokens, int64 [rows, length]; ``<folder>/jobs.json`` the ``model`` (a
folder), the ``batch_size`` and the ``jobs``: name, ``method`` (rtn, gptq, awq), its ``options`` and compressed-tensors'
``config_groups``. Job by job, ``<folder>/<name>`` gets the quantized model (compressed-tensors), and
``<folder>/seconds.json`` what it took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llmcompressor import oneshot  # type: ignore[import-not-found]
from llmcompressor.modifiers.gptq import GPTQModifier  # type: ignore[import-not-found]
from llmcompressor.modifiers.quantization import QuantizationModifier  # type: ignore[import-not-found]
from llmcompressor.modifiers.transform import AWQModifier  # type: ignore[import-not-found]
from llmcompressor.pipelines.cache import IntermediatesCache  # type: ignore[import-not-found]
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM


def recipe(job: dict[str, Any]) -> list[Any]:
    """llmcompressor's modifiers for a job."""
    grid = {"config_groups": job["config_groups"], "ignore": ["lm_head"]}
    if job["method"] == "gptq":
        return [GPTQModifier(**grid, **job["options"])]
    rounding = QuantizationModifier(**grid)
    return [AWQModifier(**job["options"]), rounding] if job["method"] == "awq" else [rounding]


def quantize(job: dict[str, Any], model_folder: str, samples: DataLoader[Any], out: Path) -> float:
    """Quantize and save; the seconds of the algorithm."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, local_files_only=True)
    start = time.monotonic()
    oneshot(
        model=model,
        dataset=samples,
        recipe=recipe(job),
        pipeline="datafree" if job["method"] == "rtn" else "sequential",
    )
    seconds = time.monotonic() - start
    model.save_pretrained(out, save_compressed=True)
    return seconds


def main(folder: Path) -> None:
    """Do every job."""
    if not torch.accelerator.is_available():  # AWQ pins its inputs for a copy to a GPU, which fails where there is none
        IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None
    plan = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    rows = torch.from_numpy(np.load(folder / "tokens.npy"))
    samples: DataLoader[Any] = DataLoader(
        [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows],  # type: ignore[arg-type]
        batch_size=plan["batch_size"],
    )
    seconds = {job["name"]: quantize(job, plan["model"], samples, folder / job["name"]) for job in plan["jobs"]}
    (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
