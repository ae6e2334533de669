"""Runs AutoRound on a float model; ``qat/ptq/auto_round.py`` calls it with the Python of AutoRound's environment.

    python auto_round_worker.py <folder>

``<folder>`` has ``model`` (transformers' folder), ``tokens.npy`` (calibration tokens, int64 [rows, length]) and
``job.json``: ``layers`` (name -> bits, group_size, sym, data_type), ``scale_dtype`` and the ``options``. It gets
``result.safetensors``: of every layer ``<name>.weight`` (its values, float32 [out, in]), ``<name>.scale`` and
``<name>.zero_point`` (float32 [out, groups]; of unsigned codes).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from auto_round import AutoRound  # type: ignore[import-not-found]
from safetensors.torch import save_file
from torch import Tensor

_NO_TOKENIZER = SimpleNamespace(pad_token=None, pad_token_id=None)
"""AutoRound wants one, and asks it for the padding of calibration data; ours has none."""


def load(folder: Path) -> Any:
    """The float model, of the class that ``config.json`` names."""
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    model: Any = getattr(transformers, names[0])
    return model.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def result_of(name: str, layer: Any) -> dict[str, Tensor]:
    """What AutoRound found for a layer."""
    rows = layer.weight.shape[0]
    parts = {"weight": layer.weight, "scale": layer.scale.reshape(rows, -1), "zero_point": layer.zp.reshape(rows, -1)}
    return {f"{name}.{part}": tensor.detach().float().contiguous() for part, tensor in parts.items()}


def main(folder: Path) -> None:
    """Quantize."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    layers: dict[str, Any] = job["layers"]
    rows = torch.from_numpy(np.load(folder / "tokens.npy"))
    model = load(folder / "model")
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    rounding = AutoRound(
        model,
        _NO_TOKENIZER,
        scheme=next(iter(layers.values())),
        layer_config=layers | {name: {"bits": 16} for name in linear if name not in layers},
        dataset=[{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows],
        nsamples=len(rows),
        seqlen=rows.shape[1],
        device_map="cpu",
        amp=False,
        enable_torch_compile=False,
        low_cpu_mem_usage=False,
        scale_dtype=job["scale_dtype"],
        **job["options"],
    )
    quantized, _ = rounding.quantize()
    found: dict[str, Tensor] = {}
    for name in layers:
        found |= result_of(name, quantized.get_submodule(name))
    save_file(found, folder / "result.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
