"""Every scheme x every fake quantizer: train a little, freeze, save, load. The integers are those that were trained."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference
from qat.hosts import hosts
from qat.restore import restore


def test_what_was_trained_is_what_is_frozen(
    trained, tokens, build, scheme_name: str, fake_quantizer_name: str, tmp_path: Path
) -> None:
    scheme, model = _trained(trained, build, scheme_name, fake_quantizer_name)
    if model is None:
        return
    QuantizedCheckpoint.freeze(model, scheme).save(tmp_path / "quantized")
    checkpoint = QuantizedCheckpoint.load(tmp_path / "quantized")
    first_names = {name: names[0] for names in checkpoint.tied for name in names}
    for name, host in hosts(model).items():
        stored = first_names.get(f"{name}.weight", f"{name}.weight").removesuffix(".weight")
        rounded = host.weight_fake_quantizer(host.weight)
        assert torch.equal(checkpoint.weights[stored].grid.value(), rounded), name
    assert torch.equal(restore(checkpoint)(tokens).logits, model(tokens).logits)


def _trained(trained, build, scheme_name: str, fake_quantizer_name: str):
    """The scheme and a trained model; float32 scales where others are refused, None where these are refused too."""
    for options in ({}, {"scale_format": "fp32"}):
        scheme = build("scheme", scheme_name, **options)
        try:
            return scheme, trained(scheme, fake_quantizer_name)
        except InputError as error:
            refusal = str(error)
        assert re.search("set .*=|pick another", refusal), refusal
    return scheme, None


def test_transformers_computes_the_trained_model(trained, tokens, build, scheme_name: str, tmp_path: Path) -> None:
    scheme = build("scheme", scheme_name)
    model = trained(scheme)
    checkpoint = QuantizedCheckpoint.freeze(model, scheme)
    try:
        build("export", "compressed_tensors").write(checkpoint, tmp_path / "export")
    except InputError:  # it says which formats take the scheme: see test_exports
        assert not scheme.rounds_activations, "the other format that transformers loads holds weights only"
        build("export", "dequantized", dtype="float32").write(checkpoint, tmp_path / "export")
    engine = TransformersEngine()
    engine.load(tmp_path / "export")
    difference = max_logit_difference(model, engine.logits, tokens)
    # An activation next to a rounding border may fall to the other code; one step of one input moves a logit by less.
    assert difference <= (5e-2 if scheme.rounds_activations else 1e-4)
