"""Which float type holds a tensor exactly, and if none does, what it would need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.grid import scale_format
from qat.quantized import QuantizedWeight

SIGNIFICAND_BITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
"""Bits of the significand, the hidden one included."""

_CHUNK = 1 << 20
"""Numbers looked at together, so that a large tensor is not widened whole."""
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def value_bits(checkpoint: QuantizedCheckpoint, entry: QuantizedWeight) -> int:
    """Significand bits of a code times a scale, whatever their numbers are; no more than float32 computes with."""
    args = entry.args
    scale_bits = scale_format(checkpoint.scheme.scale_format, args.num_bits, args.symmetric).significand
    bits: int = scale_bits + args.num_bits - (1 if args.symmetric else 0)
    return min(bits, SIGNIFICAND_BITS[torch.float32])


def is_exact(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``tensor`` -> ``dtype`` and back gives the same bits; True for integers, which are never cast."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return True
    bits = _BITS[tensor.element_size()]
    return all(torch.equal(part.to(dtype).to(part.dtype).view(bits), part.view(bits)) for part in _parts(tensor))


def significand_bits(tensor: Tensor) -> int:
    """The most significand bits that a number of ``tensor`` needs, the leading one included; 0 if all are zero.

    Example:
        >>> significand_bits(torch.tensor([0.0, 0.5, 7 * 2.0**-20]))
        3
    """
    return max((_significand_bits(part.float()) for part in _parts(tensor)), default=0)


def misfit(tensor: Tensor, dtype: torch.dtype) -> str:
    """Why ``tensor`` is not exact in ``dtype``: the bits it needs, or the number that is out of range.

    Example:
        >>> misfit(torch.tensor([127.0 * 129]), torch.float16)
        'needs 14 significand bits'
    """
    bits = significand_bits(tensor)
    if bits > SIGNIFICAND_BITS[dtype]:
        return f"needs {bits} significand bits"
    wrong = [number for part in _parts(tensor) if (number := _out_of_range(part.float(), dtype)) is not None]
    return f"holds {min(wrong, key=abs):g}, out of its range" if wrong else "holds numbers that are not finite"


def name_misfits(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, named: int = 3) -> tuple[list[str], str]:
    """Every tensor that ``dtype`` does not hold exactly.

    Returns:
        Their names, and the first ``named`` of them with the reasons as a text, such as
        ``a needs 12 significand bits, b holds 70000, out of its range and 4 more``.
    """
    wrong: list[str] = []
    reasons: list[str] = []
    for name, tensor in tensors:
        if not is_exact(tensor, dtype):
            wrong.append(name)
            if len(reasons) < named:
                reasons.append(f"{name} {misfit(tensor, dtype)}")
    more = f" and {len(wrong) - named} more" if len(wrong) > named else ""
    return wrong, ", ".join(reasons) + more


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.reshape(-1)
    return (flat[start : start + _CHUNK] for start in range(0, flat.numel(), _CHUNK))


def _significand_bits(wide: Tensor) -> int:
    fraction, _ = torch.frexp(wide[wide.isfinite()])
    integer = (fraction.abs() * (1 << 24)).to(torch.int32)
    integer = integer[integer != 0]
    if not len(integer):
        return 0
    lowest = integer & -integer  # at most 2**23, so its logarithm is exact in float32
    return int((24 - lowest.float().log2()).max())


def _out_of_range(wide: Tensor, dtype: torch.dtype) -> float | None:
    """The smallest number that ``dtype`` does not hold, if there is one."""
    wrong = wide[(wide.to(dtype).float() != wide) & wide.isfinite()]
    return wrong[wrong.abs().argmin()].item() if len(wrong) else None
