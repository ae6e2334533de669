"""The only place that knows rounding, scales, groups and scale formats. Pure functions on tensors.

A quantized value is ``value = (code - zero_point) * scale``. Codes are signed for every scheme, as in
compressed-tensors: ``b`` bits give codes in ``[-2**(b-1), 2**(b-1) - 1]``; a symmetric grid has no zero point.

With a *narrow range* the codes are ``[-(2**(b-1) - 1), 2**(b-1) - 1]``, as many below zero as above: 2 bits are then
ternary, {-1, 0, 1}. The codes are stored as those of the full range are.

Inside, a tensor is seen as ``groups [rows, n_groups, k]``: ``k`` neighbouring numbers share one scale.

    strategy   groups of a weight [out, in]     scale as stored
    tensor     [1, 1, out * in]                 [1]
    channel    [out, 1, in]                     [out, 1]
    group      [out, in / g, g]                 [out, in / g]
    token      [tokens, 1, features]            computed, never stored

Training, freezing and every exporter call the functions here, so there is one grid.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from torch import Tensor

from qat.errors import InputError, nearest

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class Grid:
    """The integers and the scale of one tensor.

    Attributes:
        codes: int8, the shape of the tensor that was quantized.
        scale: in its storage dtype; shape as in the table above.
        zero_point: int8 of ``scale``'s shape, or None for a symmetric grid.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None = None

    def value(self) -> Tensor:
        """``(codes - zero_point) * scale`` in float32, exact for codes up to 8 bits and 16-bit scales."""
        scale = self.scale.float()
        rows, n_groups = (1, 1) if scale.ndim == 1 else scale.shape
        groups = self.codes.reshape(rows, n_groups, -1).float()
        zero_point = None if self.zero_point is None else self.zero_point.reshape(rows, n_groups)
        return dequantize(groups, scale.reshape(rows, n_groups), zero_point).reshape(self.codes.shape)


def qrange(bits: int, narrow_range: bool = False) -> tuple[int, int]:
    """Smallest and largest code of ``bits`` bits.

    Args:
        bits: of a code.
        narrow_range: leave out the lowest code, so that the range is as wide below zero as above. 2 bits are the
            ternary weights of TWN (arXiv:1605.04711, section 2).

    Raises:
        InputError: bits outside 2..8.

    Example:
        >>> qrange(4)
        (-8, 7)
        >>> qrange(2, narrow_range=True)
        (-1, 1)
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"num_bits is {bits}; allowed are {MIN_BITS} to {MAX_BITS}")
    half: int = 1 << (bits - 1)
    return 1 - half if narrow_range else -half, half - 1


def group_count(shape: tuple[int, ...], args: QuantizationArgs) -> tuple[int, int]:
    """``(rows, n_groups)`` of a weight of ``shape`` [out, in] under ``args``.

    Raises:
        InputError: a group size that does not divide the input features, or an unsupported strategy.
    """
    rows = shape[0]
    if args.strategy == QuantizationStrategy.TENSOR:
        return 1, 1
    if args.strategy == QuantizationStrategy.CHANNEL:
        return rows, 1
    if args.strategy == QuantizationStrategy.GROUP:
        columns, size = math.prod(shape[1:]), args.group_size or 0
        if columns % size:
            raise InputError(
                f"group_size {size} does not divide {columns} input features; "
                "use a divisor, or write scheme.group_fallback=channel"
            )
        return rows, columns // size
    raise InputError(f"strategy '{args.strategy}' is not one of tensor, channel, group for weights")


def to_groups(x: Tensor, args: QuantizationArgs) -> Tensor:
    """View ``x`` as ``[rows, n_groups, k]`` (see the table above); activations are ``[..., features]``."""
    if args.strategy == QuantizationStrategy.TENSOR:
        return x.reshape(1, 1, -1)
    if args.strategy == QuantizationStrategy.CHANNEL:
        return x.reshape(x.shape[0], 1, -1)
    if args.strategy == QuantizationStrategy.TOKEN:
        return x.reshape(-1, 1, x.shape[-1])
    return x.reshape(x.shape[0], -1, args.group_size or 1)


def stored_shape(scale: Tensor, args: QuantizationArgs) -> Tensor:
    """Give ``scale`` (or zero point) ``[rows, n_groups]`` the shape in which it is stored."""
    return scale.reshape(1) if args.strategy == QuantizationStrategy.TENSOR else scale


def quantize(groups: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Tensor, qmax: Tensor) -> Tensor:
    """Codes as floats: ``clamp(round(x / scale + zero_point), qmin, qmax)``, ties to even.

    Args:
        groups: float32 [rows, n_groups, k].
        scale: float32 [rows, n_groups], positive.
        zero_point: like ``scale``, or None.
        qmin: smallest code (scalar tensor).
        qmax: largest code (scalar tensor).
    """
    codes = torch.round(position(groups, scale, zero_point))
    # torch.clamp with bounds that are tensors has no vectorized kernel on the CPU: it takes several times as long.
    return torch.minimum(torch.maximum(codes, qmin), qmax)


def position(groups: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Where ``x`` lies on the code axis before rounding: ``x / scale + zero_point``."""
    position = groups / scale.unsqueeze(-1)
    return position if zero_point is None else position + zero_point.unsqueeze(-1)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """``(codes - zero_point) * scale`` for codes [rows, n_groups, k]."""
    if zero_point is not None:
        codes = codes - zero_point.unsqueeze(-1)
    return codes * scale.unsqueeze(-1)


def symmetric_scale(limit: Tensor, qmax: Tensor, scale_format: ScaleFormat) -> Tensor:
    """Scale of the symmetric clip range ``[-limit, limit]``: ``limit / qmax``, rounded as it will be stored.

    ``qmax`` is that of the current bits, so a schedule can change the bits and keep the learned range.
    """
    return scale_format.round(limit / qmax)


def asymmetric_scale(
    lower: Tensor, upper: Tensor, qmin: Tensor, qmax: Tensor, scale_format: ScaleFormat
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the clip range ``[lower, upper]``, which always holds 0.

    Zero must be a value of the grid (padding, ReLU), hence the integer zero point: arXiv:1712.05877, eq. 1.
    """
    lower, upper = torch.clamp(lower, max=0.0), torch.clamp(upper, min=0.0)
    scale = scale_format.round((upper - lower) / (qmax - qmin))
    zero_point = torch.clamp(torch.round(qmin - lower / scale), qmin, qmax)
    return scale, zero_point


@dataclass(frozen=True)
class ScaleFormat:
    """How a scale is rounded and stored.

    Attributes:
        name: as written in a scheme.
        dtype: storage dtype.
        significand: bits of the significand, the hidden one included (float32 has 24).
        floor: smallest scale; a group of zeros gets it.
        ceiling: largest scale.
    """

    name: str
    dtype: torch.dtype
    significand: int
    floor: float
    ceiling: float

    def round(self, scale: Tensor) -> Tensor:
        """Round to the nearest scale of this format, ties to even; float32 in and out."""
        scale = torch.clamp(scale, self.floor, self.ceiling)
        if self.significand == 24:
            return scale
        if self.significand < _SIGNIFICAND[self.dtype]:
            fraction, exponent = torch.frexp(scale)
            steps = float(1 << self.significand)
            scale = torch.ldexp(torch.round(fraction * steps) / steps, exponent)
        return scale.to(self.dtype).float()


_SIGNIFICAND = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
_PLAIN = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOSSLESS = {"lossless_fp16": torch.float16, "lossless_bf16": torch.bfloat16}
SCALE_FORMATS = (*_PLAIN, *_LOSSLESS, "significand_<k>")


def scale_format(name: str, bits: int, symmetric: bool) -> ScaleFormat:
    """Look up the scale format ``name`` for codes of ``bits`` bits.

    ``fp32 | bf16 | fp16`` store the scale in that dtype. ``significand_<k>`` keeps k bits of it (k = 1: powers of
    two). ``lossless_fp16 | lossless_bf16`` keep as many bits as let every value ``code * scale`` be exact in that
    16-bit type: a code of m magnitude bits times a scale of n bits is exact in p >= m + n bits.

    Args:
        name: one of ``SCALE_FORMATS``.
        bits: the scheme's bits (not those of a passing phase: the format never changes during a run).
        symmetric: False adds one magnitude bit, since ``code - zero_point`` spans the whole range.

    Raises:
        InputError: an unknown name, k outside 1..24, or a lossless format with no bit left for the scale.

    Example:
        >>> scale_format("lossless_fp16", bits=8, symmetric=True).significand
        4
    """
    if name in _PLAIN:
        dtype = _PLAIN[name]
        tiny = 2.0**-24 if dtype is torch.float16 else 2.0**-100
        return ScaleFormat(name, dtype, _SIGNIFICAND[dtype], tiny, torch.finfo(dtype).max)
    if name in _LOSSLESS:
        return _lossless(name, _LOSSLESS[name], bits if not symmetric else bits - 1)
    if found := re.fullmatch(r"significand_(\d+)", name):
        k = int(found[1])
        if not 1 <= k <= 24:
            raise InputError(f"scale_format '{name}': the significand has 1 to 24 bits")
        dtype = torch.bfloat16 if k <= 8 else torch.float32
        return ScaleFormat(name, dtype, k, 2.0**-100, 2.0**100)
    raise InputError(f"scale_format '{name}' is not one of {', '.join(SCALE_FORMATS)}{nearest(name, SCALE_FORMATS)}")


def _lossless(name: str, dtype: torch.dtype, magnitude_bits: int) -> ScaleFormat:
    significand = _SIGNIFICAND[dtype] - magnitude_bits
    if significand < 1:
        raise InputError(
            f"scale_format '{name}': codes of {magnitude_bits} magnitude bits leave no bit for the scale in "
            f"{dtype}; use fewer bits, a symmetric scheme, or lossless_fp16"
        )
    if dtype is torch.bfloat16:
        return ScaleFormat(name, dtype, significand, 2.0**-100, 2.0**100)
    # fp16 ends at 2**-24 below and 2**16 above: the last bit of the scale and the largest product must fit.
    return ScaleFormat(name, dtype, significand, 2.0 ** (significand - 25), 2.0 ** (15 - magnitude_bits))
