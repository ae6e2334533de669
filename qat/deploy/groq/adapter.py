"""A LoRA adapter as GroqCloud takes it: a zip of exactly two files, the weights in float16."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from qat.errors import InputError

ARCHIVE = "adapter.zip"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Of every file in the zip, so that the same adapter makes the same bytes; a zip knows no earlier day."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMED = 3


@dataclass(frozen=True)
class Adapter:
    """What a peft folder or a zip holds.

    Attributes:
        files: names of the files, as in the folder or the zip.
        config: ``adapter_config.json``.
        tensors: ``adapter_model.safetensors``.
    """

    files: tuple[str, ...]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read(place: Path) -> Adapter:
    """The adapter in a peft folder, in ``adapter.zip`` of a folder, or in a zip.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if place.is_dir() and (place / ARCHIVE).is_file():
        place = place / ARCHIVE
    try:
        if place.is_dir():
            held = {name: (place / name).read_bytes() for name in (CONFIG, WEIGHTS)}
            names = tuple(held)  # what peft writes besides, such as README.md, is left out of the zip
        else:
            with zipfile.ZipFile(place) as archive:
                names = tuple(archive.namelist())
                held = {name: archive.read(name) for name in (CONFIG, WEIGHTS) if name in names}
        config = json.loads(held[CONFIG])
        tensors = safetensors.torch.load(held[WEIGHTS])
    except (OSError, KeyError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else getattr(error, "filename", None) or place
        raise InputError(
            f"{place} is no LoRA adapter: {missing} is not there; give a folder that peft's save_pretrained wrote"
        ) from error
    except (zipfile.BadZipFile, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"the adapter in {place} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"the adapter in {place} is damaged: {CONFIG} is no JSON object")
    return Adapter(names, config, tensors)


def to_float16(tensors: Mapping[str, Tensor], exact: bool) -> dict[str, Tensor]:
    """The same tensors in float16, rounded to nearest.

    Args:
        tensors: of any floating dtype.
        exact: refuse values that rounding changes as well.

    Raises:
        InputError: values that float16 does not hold: not finite, above 65504, or with ``exact`` any that changes.
    """
    made: dict[str, Tensor] = {}
    wrong: dict[str, str] = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in _FLOATS:
            wrong[name] = f"{str(tensor.dtype).removeprefix('torch.')}, not a floating type"
            continue
        half = tensor.to(torch.float16)
        made[name] = half.contiguous()
        if not tensor.isfinite().all():
            wrong[name] = "not finite"
        elif not half.isfinite().all():
            wrong[name] = f"up to {tensor.abs().max().item():g}"
        elif exact and not torch.equal(half.to(tensor.dtype), tensor):
            wrong[name] = "changed by rounding"
    if wrong:
        named = ", ".join(f"{name} ({reason})" for name, reason in list(wrong.items())[:_NAMED])
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise InputError(
            f"float16, which GroqCloud takes, does not hold {named}{more}; it reaches to 65504: train with a smaller "
            "lora_alpha" + (", or allow rounding with target.exact=false" if exact else "")
        )
    return made


def pack(adapter: Adapter, exact: bool = False) -> bytes:
    """The zip: two files at its root, the same bytes for the same adapter.

    Raises:
        InputError: see :func:`to_float16`.
    """
    weights = safetensors.torch.save(to_float16(adapter.tensors, exact), metadata={"format": "pt"})
    config = json.dumps(dict(adapter.config), indent=2, sort_keys=True) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ((CONFIG, config.encode()), (WEIGHTS, weights)):
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
