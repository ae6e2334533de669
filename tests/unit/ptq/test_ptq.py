"""Round to nearest and calibration, against ranges computed by hand."""

from __future__ import annotations

import pytest
import torch

from qat.errors import InputError
from qat.hosts import hosts, quantizers
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.observers.percentile import Percentile
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.ptq.rtn import RTN
from qat.scheme import preset


def test_rtn_sets_every_range_to_its_observers(llama) -> None:
    model = llama()
    prepare(model, preset("w4a16_channel"), observer=MSE())
    RTN(MinMax()).run(model, [])
    for host in hosts(model).values():
        assert torch.equal(host.weight_fake_quantizer.limit, host.weight.abs().amax(-1, keepdim=True))


def test_rtn_with_mse_has_the_smaller_error(llama) -> None:
    errors = []
    for observer in (MinMax(), MSE()):
        model = llama()
        prepare(model, preset("w3a16_channel"))
        RTN(observer).run(model, [])
        rounded = ((host.weight_fake_quantizer(host.weight), host.weight) for host in hosts(model).values())
        errors.append(sum((a - b).square().sum().item() for a, b in rounded))
    assert errors[1] < errors[0]


def inputs_of(model, batches: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """What every linear of the float model gets, recorded independently."""
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            seen[name] = []
            module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return seen


@pytest.mark.parametrize("observer", [MinMax(), Percentile(share=0.99)])
def test_calibration_sees_the_float_model(llama, tokens: torch.Tensor, observer) -> None:
    batches = [tokens, tokens.flip(0, 1) // 2]
    seen = inputs_of(llama(), batches)
    model = llama().train()
    prepare(model, preset("w8a8_static"))
    assert calibrate(model, [{"input_ids": batch} for batch in batches], observer) == 14
    assert model.training, "the mode is put back"
    for name, host in hosts(model).items():
        quantizer = host.activation_fake_quantizer
        ends = [observer.range(x.reshape(1, 1, -1), quantizer.spec)[1] for x in seen[name]]
        joined = torch.stack(ends).amax(0) if isinstance(observer, MinMax) else torch.stack(ends).mean(0)
        assert torch.equal(quantizer.limit, joined)
    assert all(quantizer.enabled == 1 for quantizer in quantizers(model).values()), "the state is put back"


def test_nothing_static_needs_no_data(llama) -> None:
    model = llama()
    prepare(model, preset("w8a8"))
    assert calibrate(model, [], MinMax()) == 0


def test_static_activations_without_data_are_refused(llama) -> None:
    model = llama()
    prepare(model, preset("w8a8_static"))
    with pytest.raises(InputError, match="no calibration data reached model.layers.0.self_attn.q_proj"):
        calibrate(model, [], MinMax())
