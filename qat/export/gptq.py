"""gptq: GPTQ's checkpoint layout, which GPTQModel, vLLM and transformers with GPTQModel load.

The file holds weights of one width and group size with scales in float16: scales that are not exact in it are refused
while writing. Symmetric weights are written as v1; asymmetric ones as v2 (``checkpoint_format: gptq_v2``), because v1
cannot say the lowest zero point and GPTQModel takes asymmetric v1 files from its own writer only. vLLM's GPTQ kernels
are symmetric.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.export.base import refuse_kv_cache
from qat.export.exactness import SIGNIFICAND_BITS, is_exact, name_misfits
from qat.export.folder import CONFIG_KEY, FolderExporter, read_config
from qat.export.gptq_tensors import BITS, WORD, implied, pack, unpack
from qat.grid import scale_format
from qat.quantized import Lazy, QuantizedWeight, ReadModule
from qat.tensor_files import TensorFolder

SCALE_DTYPE = "qat_scale_dtype"
"""Key of ``quantization_config`` for the dtype that the scales have in the checkpoint."""


@dataclass(frozen=True)
class GptqExporter(FolderExporter):
    """Packed int32 weights, config, ``quantize_config.json`` and tokenizer."""

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """One weight-only scheme of 2, 3, 4 or 8 bits, group or channel, for linear layers of multiples of 32."""
        refuse_kv_cache(checkpoint, "gptq", "it holds weights only")
        first_name, first = next(iter(checkpoint.weights.items()))
        tied = {name for group in checkpoint.tied for name in group}
        for name, entry in checkpoint.weights.items():
            if reason := _reason(name, entry, tied, set(checkpoint.conv1d)):
                raise InputError(f"gptq cannot hold {name}: {reason}")
            if _facts(entry) != _facts(first):
                raise InputError(
                    f"gptq holds one scheme: {first_name} has {_told(first)} and {name} {_told(entry)}; "
                    "give all layers one scheme"
                )
        scale = scale_format(checkpoint.scheme.scale_format, first.args.num_bits, first.args.symmetric)
        if scale.significand > SIGNIFICAND_BITS[torch.float16]:
            raise InputError(
                f"gptq stores scales in float16, of 11 significand bits, and {scale.name} scales have "
                f"{scale.significand}; quantize with scheme.scale_format=fp16"
            )

    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write both configs and the weights.

        Raises:
            InputError: scales that are not exact in float16, with their modules.
        """
        super().write_files(checkpoint, directory)
        text = json.dumps(_quantization_config(checkpoint), indent=2, sort_keys=True)
        (directory / "quantize_config.json").write_text(text + "\n", encoding="utf-8")

    def config(self, checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
        """The model's own, with a ``quantization_config``."""
        scale_dtype = next(iter(checkpoint.weights.values())).layout.scale.dtype
        entry = {**_quantization_config(checkpoint), SCALE_DTYPE: str(scale_dtype).removeprefix("torch.")}
        return {**checkpoint.config, CONFIG_KEY: entry}

    def module_tensors(self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight) -> dict[str, Tensor]:
        """See :func:`qat.export.gptq_tensors.pack`."""
        grid = entry.grid
        if not (grid.scale.is_meta or is_exact(grid.scale, torch.float16)):
            raise InputError(_refusal(checkpoint))
        return {f"{name}.{local}": tensor for local, tensor in pack(grid, entry.args.num_bits).items()}

    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """Read every module from its packed words.

        Raises:
            InputError: a file that is missing or damaged, or no GPTQ export; at access: a tensor that is missing.
            RunError: at access: groups, or zero points of symmetric weights, that are not those of the integers.
        """
        raw = read_config(Path(directory)).get(CONFIG_KEY, {})
        if raw.get("quant_method") != "gptq" or SCALE_DTYPE not in raw:
            raise InputError(f"{directory} was not written by the format gptq; export again")
        tensors = TensorFolder(Path(directory))
        names = [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]
        return Lazy({name: partial(_read_module, tensors, name, raw) for name in names})


def _read_module(tensors: TensorFolder, name: str, raw: dict[str, Any]) -> ReadModule:
    local = {part: tensors.require(f"{name}.{part}") for part in ("qweight", "qzeros", "scales", "g_idx")}
    grid = unpack(local, raw["bits"], raw["sym"], getattr(torch, raw[SCALE_DTYPE]))
    for part, expected in implied(grid, raw["bits"]).items():
        if not torch.equal(local[part], expected):
            raise RunError(f"{name}: its {part}, which engines read, are not those of its integers; export again")
    return ReadModule(grid)


def _reason(name: str, entry: QuantizedWeight, tied: set[str], conv1d: set[str]) -> str | None:
    """Why the layout cannot hold a module."""
    args, (rows, columns) = entry.args, entry.shape
    if name in conv1d:
        return "transformers builds it as Conv1D"
    if entry.kind != "Linear" or f"{name}.weight" in tied or "." not in name:
        return "it holds the linear layers of the blocks only; leave embeddings and the head float"
    if entry.scheme.input_activations is not None:
        return "it holds weights only, and this scheme quantizes input activations"
    if args.num_bits not in BITS:
        return f"{args.num_bits} bits, and it packs {', '.join(map(str, BITS))}"
    if args.strategy not in ("channel", "group"):
        return f"strategy '{args.strategy}', and it holds channel and group"
    if rows % WORD or columns % WORD:
        return f"its shape is {rows} x {columns}, and both must be multiples of {WORD}"
    return None


def _facts(entry: QuantizedWeight) -> tuple[int, int, bool]:
    """Bits, group size (-1: one group a channel) and symmetry."""
    args = entry.args
    group = args.group_size if args.strategy == "group" else -1
    return int(args.num_bits), int(group or -1), bool(args.symmetric)


def _told(entry: QuantizedWeight) -> str:
    bits, group, symmetric = _facts(entry)
    return f"{bits} bits, {'one group a channel' if group == -1 else f'groups of {group}'}, " + (
        "symmetric" if symmetric else "asymmetric"
    )


def _refusal(checkpoint: QuantizedCheckpoint) -> str:
    """Which scales float16 does not hold: reads every one."""
    scales = ((name, entry.grid.scale) for name, entry in checkpoint.weights.items())
    wrong, reasons = name_misfits(scales, torch.float16)
    return (
        f"gptq stores scales in float16, which does not hold those of {len(wrong)} modules exactly: {reasons}; "
        "quantize with scheme.scale_format=fp16, or pick another format"
    )


def _quantization_config(checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
    bits, group, symmetric = _facts(next(iter(checkpoint.weights.values())))
    values: dict[str, Any] = {
        "bits": bits,
        "group_size": group,
        "sym": symmetric,
        "desc_act": False,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if symmetric else "gptq_v2",
        "pack_dtype": "int32",
    }
    # Linear layers inside the blocks that stayed float: loaders would look for packed words there.
    matrices = [name.rpartition(".")[0] for name, tensor in checkpoint.rest_layout.items() if tensor.ndim == 2]
    inside = sorted(module for module in matrices if any(part.isdigit() for part in module.split(".")))
    if inside:
        values["dynamic"] = {f"-:^{re.escape(module)}$": {} for module in inside}
    return values
