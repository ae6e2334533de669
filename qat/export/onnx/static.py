"""ONNX for compilers of fixed shapes, GroqFlow's above all: opset 16, FP16 weights on the trained grid.

GroqFlow takes opset 13 to 16, static dimensions and int32 inputs, and rounds weights to FP16. The weights here are
the grid's values, which is proved tensor by tensor, so that rounding changes nothing. Activations are FP16 as well.
Checked by ``onnx.checker`` and run by ONNX Runtime; not compiled by Groq's compiler, which is not public.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch
from torch import nn

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.export.exactness import SIGNIFICAND_BITS, name_misfits, value_bits
from qat.export.onnx import opset16
from qat.export.onnx.trace import trace
from qat.restore import restore

_INTEGERS = "export integers with export.onnx.static=false"


def check_checkpoint(checkpoint: QuantizedCheckpoint, sequence: int) -> None:
    """Return if a static graph can hold ``checkpoint``, as far as its scheme tells.

    Raises:
        InputError: a sequence longer than the model's context, quantized activations, or a scale format of too many
            bits.
    """
    context = checkpoint.config.get("max_position_embeddings")
    if context is not None and sequence > context:
        raise InputError(
            f"export.onnx.sequence is {sequence}, and the model's context {context} tokens; set at most that"
        )
    for name, entry in checkpoint.weights.items():
        if entry.scheme.input_activations is not None:
            raise InputError(
                f"static ONNX holds FP16 weights only, and {name} has quantized input activations; such "
                f"compilers quantize those by themselves; use a weight-only scheme or {_INTEGERS}"
            )
        bits = value_bits(checkpoint, entry)
        if bits > SIGNIFICAND_BITS[torch.float16]:
            raise InputError(
                f"static ONNX holds FP16 weights, and the {entry.args.num_bits}-bit codes of {name} times "
                f"{checkpoint.scheme.scale_format} scales need {bits} significand bits, not "
                f"{SIGNIFICAND_BITS[torch.float16]}; quantize with scheme.scale_format=lossless_fp16 or {_INTEGERS}"
            )


@torch.no_grad()
def static_graph(checkpoint: QuantizedCheckpoint, batch: int, sequence: int) -> ir.Model:
    """Graph of the restored model with FP16 parameters, after the proof that they are exact.

    Raises:
        InputError: values that FP16 does not hold, by tensor, with the format that would make them exact.
    """
    model = restore(checkpoint)
    _prove(model, checkpoint)
    for parameter in model.parameters():  # not `model.half()`: rotary frequencies are buffers that stay float32
        parameter.data = parameter.data.half()
    graph = trace(model, checkpoint.task, opset16.TRACED_OPSET, (batch, sequence), opset16.TRANSLATIONS)
    opset16.lower(graph)
    return graph


def check_graph(model: onnx.ModelProto) -> None:
    """Check that every dimension of every tensor is a number of at least 1.

    Raises:
        RunError: one is not, which is named.
    """
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    for name in (*values, *(name for node in graph.node for name in node.output if name)):
        kind = values[name].type.tensor_type if name in values else onnx.TypeProto.Tensor()
        if not kind.HasField("shape") or any(dimension.dim_value < 1 for dimension in kind.shape.dim):
            raise RunError(f"the shape of '{name}' is not static, which compilers of fixed shapes need")


def _prove(model: nn.Module, checkpoint: QuantizedCheckpoint) -> None:
    """Refuse parameters that FP16 does not hold bit for bit."""
    wrong, reasons = name_misfits(model.named_parameters(), torch.float16)
    if not wrong:
        return
    weights = {f"{name}.weight" for name in checkpoint.weights}
    remedies = ["quantize with scheme.scale_format=lossless_fp16"] if weights & set(wrong) else []
    remedies += ["quantize with rest_dtype=float16"] if set(wrong) - weights else []
    raise InputError(
        f"static ONNX holds FP16 ({SIGNIFICAND_BITS[torch.float16]} significand bits), in which {len(wrong)} tensors "
        f"are not exact: {reasons}; {' and '.join(remedies)}, or {_INTEGERS}"
    )
