"""Convert: a trained host -> torchao's own quantized tensors, with the learned scales.

scheme                                      weight                     activation
weight-only, any bits and granularity       IntxUnpackedToInt8Tensor   –
INT8 channel + dynamic symmetric per token  Int8Tensor                 torchao's INT8 x INT8 product
every other pair                            IntxUnpackedToInt8Tensor   the trained fake quantizer stays
"""

from __future__ import annotations

import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor, PerRow
from torchao.quantization.qat import FakeQuantizedEmbedding, FakeQuantizedLinear
from torchao.quantization.quant_primitives import MappingType
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor, QuantizeTensorToInt8Kwargs

from qat.errors import InputError
from qat.fake_quant import FakeQuantizer
from qat.grid import Grid
from qat.hosts import uncalibrated


def convert_module(module: nn.Module) -> nn.Module:
    """Replace one host by a plain module with a torchao tensor; other modules are returned as they are.

    Raises:
        InputError: a quantizer is not at the scheme's own bits (the schedule did not end), or has no range yet.
    """
    if not isinstance(module, FakeQuantizedLinear | FakeQuantizedEmbedding):
        return module
    quantizer = module.weight_fake_quantizer
    activation = getattr(module, "activation_fake_quantizer", None)
    if quantizer is None:
        return module
    check_final(quantizer, "a weight")
    if activation is not None:
        check_final(activation, "an activation")
    if uncalibrated(module):
        raise InputError("a static activation has no range yet; call qat.ptq.calibrate.calibrate before training")
    grid = quantizer.grid(module.weight)
    if isinstance(module, FakeQuantizedEmbedding):
        plain: nn.Module = module.to_embedding()
        weight = intx_tensor(grid, quantizer.args.num_bits, module.weight.dtype)
    elif activation is not None and _is_int8_by_int8(quantizer, activation):
        plain, weight = module.to_linear(), int8_tensor(grid, module.weight.dtype)
    else:
        weight = intx_tensor(grid, quantizer.args.num_bits, module.weight.dtype)
        if activation is not None:
            module.weight_fake_quantizer = None
            module.weight = nn.Parameter(weight, requires_grad=False)
            return module
        plain = module.to_linear()
    plain.weight = nn.Parameter(weight, requires_grad=False)
    return plain.train(module.training)


def check_final(quantizer: FakeQuantizer, name: str) -> None:
    """Refuse to take a grid that is not the one the scheme promises.

    Raises:
        InputError: other bits, off, or blended.
    """
    if not quantizer.final:
        bits = int(torch.log2(quantizer.qmax + 1).item()) + 1
        raise InputError(
            f"{name} is at {bits} bits (enabled {quantizer.enabled.item():g}, mix {quantizer.mix.item():g}), "
            f"the scheme promises {quantizer.args.num_bits} bits; let the schedule end before freezing"
        )


def _is_int8_by_int8(weights: FakeQuantizer, inputs: FakeQuantizer) -> bool:
    return (
        (weights.args.num_bits, weights.args.strategy, weights.args.symmetric) == (8, "channel", True)
        and (inputs.args.num_bits, inputs.args.strategy, inputs.args.symmetric) == (8, "token", True)
        and bool(inputs.args.dynamic)
    )


def int8_tensor(grid: Grid, dtype: torch.dtype) -> Int8Tensor:
    """The weight of an INT8 x INT8 product: symmetric, one scale a channel; input dynamic and symmetric a token.

    Args:
        grid: of up to 8 bits.
        dtype: what the tensor shows as its own and computes its output in.
    """
    kwargs = QuantizeTensorToInt8Kwargs(granularity=PerRow(), mapping_type=MappingType.SYMMETRIC)
    block_size = [1, grid.codes.shape[1]]
    return Int8Tensor(grid.codes, grid.scale.float(), block_size, dtype, act_quant_kwargs=kwargs)


def intx_tensor(grid: Grid, bits: int, dtype: torch.dtype) -> IntxUnpackedToInt8Tensor:
    """A weight-only tensor of any bits and granularity.

    Args:
        grid: codes and scale.
        bits: of the codes, 2 to 8.
        dtype: what the tensor shows as its own and dequantizes to.
    """
    rows, columns = grid.codes.shape
    scale = grid.scale.float()
    scale = scale.reshape(1, 1) if scale.ndim == 1 else scale
    zero_point = torch.zeros_like(scale, dtype=torch.int8)
    if grid.zero_point is not None:
        zero_point = grid.zero_point.reshape(scale.shape)
    return IntxUnpackedToInt8Tensor(
        qdata=grid.codes,
        scale=scale,
        zero_point=zero_point,
        target_dtype=getattr(torch, f"int{bits}"),
        block_size=(rows // scale.shape[0], columns // scale.shape[1]),
        dtype=dtype,
        activation_quantization=None,
    )
