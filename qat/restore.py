"""Restore: a quantized checkpoint -> a model that computes with its values, to evaluate or to go on from."""

from __future__ import annotations

from functools import partial

import torch
from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor, nn

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.fake_quant.base import FakeQuantizeConfig, FakeQuantizer, Layout
from qat.fake_quant.dynamic import Dynamic
from qat.fake_quant.fixed import Fixed
from qat.fake_quant.kv_cache import attach
from qat.hosts import Host
from qat.models.build import from_config
from qat.prepare import make_host
from qat.quantized import QuantizedWeight


@torch.no_grad()
def restore(checkpoint: QuantizedCheckpoint) -> nn.Module:
    """Build the model of a checkpoint: float32 weights on their grids, activations rounded as in training.

    The logits are those of the prepared model that was frozen, bit for bit on the same machine.

    Raises:
        InputError: the checkpoint lacks a tensor of its model, or has one too many, which is named.
    """
    model = from_config(checkpoint.config, checkpoint.task)  # type: ignore[arg-type]
    state = dict(checkpoint.rest)
    for name, entry in checkpoint.weights.items():
        state[f"{name}.weight"] = entry.grid.value()
    for names in checkpoint.tied:
        state |= dict.fromkeys(names[1:], state[names[0]])
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        name, what = (missing[0], "lacks") if missing else (unexpected[0], "has one tensor too many:")
        raise InputError(f"the checkpoint {what} {name}; it was made for another version of the model")
    for name, entry in checkpoint.weights.items():
        if entry.scheme.input_activations is not None:
            model.set_submodule(name, _with_activation(model.get_submodule(name), entry))
    if checkpoint.scheme.kv_cache is not None:
        attach(model, partial(_kv_quantizers, checkpoint))
    if checkpoint.generation_config is not None:
        model.generation_config = type(model.generation_config).from_dict(checkpoint.generation_config)
    return model.eval()


def _with_activation(module: nn.Module, entry: QuantizedWeight) -> Host:
    host = make_host(module)
    inputs = entry.scheme.input_activations
    assert inputs is not None
    host.activation_fake_quantizer = _stored(inputs, entry.input_scale, entry.input_zero_point)
    return host.eval()


def _kv_quantizers(checkpoint: QuantizedCheckpoint, attention: str) -> tuple[FakeQuantizer, FakeQuantizer]:
    args, scales = checkpoint.scheme.kv_cache, checkpoint.kv_scales.get(attention)
    if scales is None:
        return _stored(args, None), _stored(args, None)
    return _stored(args, scales.key), _stored(args, scales.value)


def _stored(args: QuantizationArgs, scale: Tensor | None, zero_point: Tensor | None = None) -> FakeQuantizer:
    """The fake quantizer of an activation: with its stored scale, or without one where it is dynamic.

    Raises:
        InputError: it is static and has none.
    """
    config: FakeQuantizeConfig = Dynamic()
    if not args.dynamic:
        if scale is None:
            raise InputError("the checkpoint lacks the scale of a static activation; quantize again")
        config = Fixed(scale, zero_point)
    return config.build(args, Layout(1, 1, activation=True), "fp32")
