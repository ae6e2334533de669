"""Every scheme x every fake quantizer: train a little, freeze, save, load. The integers are those that were trained."""

from __future__ import annotations

from pathlib import Path

import torch

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.transformers import TransformersEngine
from qat.evaluate.parity import max_logit_difference
from qat.hosts import hosts
from qat.restore import restore


def test_what_was_trained_is_what_is_frozen(
    trained, tokens, build, scheme_name: str, fake_quantizer_name: str, tmp_path: Path
) -> None:
    scheme = build("scheme", scheme_name)
    model = trained(scheme, fake_quantizer_name)
    QuantizedCheckpoint.freeze(model, scheme).save(tmp_path / "quantized")
    checkpoint = QuantizedCheckpoint.load(tmp_path / "quantized")
    for name, host in hosts(model).items():
        rounded = host.weight_fake_quantizer(host.weight)
        assert torch.equal(checkpoint.weights[name].grid.value(), rounded), name
    assert torch.equal(restore(checkpoint)(tokens).logits, model(tokens).logits)


def test_transformers_computes_the_trained_model(trained, tokens, build, scheme_name: str, tmp_path: Path) -> None:
    scheme = build("scheme", scheme_name)
    model = trained(scheme)
    checkpoint = QuantizedCheckpoint.freeze(model, scheme)
    build("export", "compressed_tensors").write(checkpoint, tmp_path / "export")
    engine = TransformersEngine()
    engine.load(tmp_path / "export")
    difference = max_logit_difference(model, engine.logits, tokens)
    weight_only = all(group.input_activations is None for group in scheme.config_groups.values())
    # An activation next to a rounding border may fall to the other code; one step of one input moves a logit by less.
    assert difference <= (1e-4 if weight_only else 5e-2)
