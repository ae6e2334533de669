"""Every scheme x every fake quantizer: train a little, freeze, export in every format, read back. Zero mismatches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference, parity
from qat.hosts import hosts, range_parameters
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.restore import restore


def trained(llama, tokens, scheme, fake_quantizer, observer):
    """Prepared, calibrated and moved by two optimizer steps, so that nothing is where it started."""
    prepare(llama, scheme, fake_quantizer, observer)
    calibrate(llama, [{"input_ids": tokens}], observer)
    optimizer = torch.optim.SGD(llama.parameters(), lr=0.05)
    for _ in range(2):
        llama(tokens, labels=tokens).loss.backward()
        for name, parameter in range_parameters(llama):
            assert parameter.grad.abs().sum() > 0, f"{name} is not trained"
        optimizer.step()
        optimizer.zero_grad()
    return llama


def test_what_was_trained_is_what_is_exported(
    llama, tokens, build, scheme_name: str, fake_quantizer_name: str, export_name: str, tmp_path: Path
) -> None:
    scheme = build("scheme", scheme_name)
    model = trained(llama, tokens, scheme, build("fake_quantizer", fake_quantizer_name), build("observer", "mse"))
    QuantizedCheckpoint.freeze(model, scheme).save(tmp_path / "quantized")
    checkpoint = QuantizedCheckpoint.load(tmp_path / "quantized")
    for name, host in hosts(model).items():
        rounded = host.weight_fake_quantizer(host.weight)
        assert torch.equal(checkpoint.weights[name].grid.value(), rounded), name
    assert torch.equal(restore(checkpoint)(tokens).logits, model(tokens).logits)

    exporter = build("export", export_name)
    try:
        exporter.takes(checkpoint)
    except InputError as refusal:
        pytest.skip(f"{export_name} does not hold {scheme_name}: {refusal}")
    exporter.write(checkpoint, tmp_path / "export")
    assert parity(checkpoint, exporter.read(tmp_path / "export"), exporter.holds_activations).exact


def test_transformers_computes_the_trained_model(llama, tokens, build, scheme_name: str, tmp_path: Path) -> None:
    scheme = build("scheme", scheme_name)
    model = trained(llama, tokens, scheme, build("fake_quantizer", "lsq"), build("observer", "mse"))
    checkpoint = QuantizedCheckpoint.freeze(model, scheme)
    build("export", "compressed_tensors").write(checkpoint, tmp_path / "export")
    engine = TransformersEngine()
    engine.load(tmp_path / "export")
    difference = max_logit_difference(model, engine.logits, tokens)
    weight_only = all(group.input_activations is None for group in scheme.config_groups.values())
    # An activation next to a rounding border may fall to the other code; one step of one input moves a logit by less.
    assert difference <= (1e-4 if weight_only else 5e-2)
