"""Losses and gradients that are not finite stop the run and are located."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qat.errors import RunError

Tiny = Any


def _spoil(module: nn.Module, name: str, at: int, value: float = float("nan")) -> None:
    """From its forward pass number ``at`` on, the layer ``name`` returns ``value``."""
    calls = 0

    def hook(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * value if calls > at else output

    module.model.get_submodule(name).register_forward_hook(hook)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_layer_that_spoils_a_finite_input_is_named(tiny: Tiny, tmp_path: Path, value: float) -> None:
    module = tiny.float()
    _spoil(module, "model.layers.0.mlp.up_proj", at=5, value=value)
    with pytest.raises(RunError, match=r"loss of step 3 is not finite: .*'model\.layers\.0\.mlp\.up_proj'"):
        tiny.run(module, tmp_path, val_every=0)


def test_a_fake_quantizer_is_named(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.quantized(20)
    name = "model.layers.1.self_attn.q_proj.activation_fake_quantizer"
    _spoil(module, name, at=8)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        tiny.run(module, tmp_path, val_every=0)


def test_a_parameter_that_was_bad_before_is_named(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float()
    with torch.no_grad():
        module.model.model.norm.weight[0] = float("inf")
    with pytest.raises(RunError, match=r"loss of step 1 is not finite: 'model\.norm\.weight' held"):
        tiny.run(module, tmp_path, val_every=0)


def test_a_bad_gradient_does_not_reach_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float()
    weight = module.model.model.layers[1].mlp.down_proj.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(RunError, match=r"gradient of step 1 .*'model\.layers\.1\.mlp\.down_proj\.weight'"):
        tiny.run(module, tmp_path, val_every=0)
    assert all(torch.equal(a, b) for a, b in zip(module.model.parameters(), tiny.llama().parameters(), strict=True))


def test_an_attention_mask_may_hold_infinities(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.llama()
    model.set_attn_implementation("eager")
    attention = model.model.layers[1].self_attn
    attention.register_forward_pre_hook(_mask_with_infinity, with_kwargs=True)
    module = tiny.float(model=model)
    calls = iter(range(100))
    attention.register_forward_hook(lambda _, args, output: (output[0] * _nan_from(next(calls), 3), output[1]))
    with pytest.raises(RunError, match=r"'model\.layers\.1\.self_attn'"):
        tiny.run(module, tmp_path, val_every=0)


def _mask_with_infinity(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    mask = torch.full((16, 16), -float("inf")).triu(1)
    return args, {**kwargs, "attention_mask": mask[None, None]}


def _nan_from(call: int, first: int) -> float:
    return float("nan") if call >= first else 1.0


def test_the_checkpoint_before_stays(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float()
    _spoil(module, "lm_head", at=5)
    with pytest.raises(RunError):
        tiny.run(module, tmp_path, save_every=1, val_every=0)
    saved = tiny.checkpoint(tmp_path)
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert [row["step"] for row in tiny.rows(tmp_path)] == ["1", "2"]


def test_an_overflow_under_loss_scaling_is_left_to_the_scaler(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float()
    first = iter([float("inf")])
    weight = module.model.model.norm.weight
    weight.register_hook(lambda gradient: gradient * next(first, 1.0))
    assert tiny.run(module, tmp_path, max_steps=3, val_every=0, precision="16-mixed").steps == 3
    assert tiny.checkpoint(tmp_path)["MixedPrecision"]["scale"] == 2.0**15  # halved once
