from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qat.engines.torchao import TorchaoEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.torchao import TorchaoExporter
from qat.restore import restore
from qat.scheme import Scheme, preset

EMBEDDING = Scheme(
    {"all": {"targets": ["Linear", "Embedding"], "weights": {"num_bits": 8, "strategy": "channel"}}},
)


@pytest.mark.parametrize(
    "scheme",
    [preset("w4a16_g32"), preset("w4a16_g32_asym"), EMBEDDING],
    ids=["g32", "zero points", "tied embedding"],
)
def test_torchao_computes_the_trained_model(frozen, exported, tokens: Tensor, scheme: Scheme) -> None:
    checkpoint = frozen(scheme)
    engine = TorchaoEngine()
    engine.load(exported(TorchaoExporter(), checkpoint))
    assert max_logit_difference(engine.logits, restore(checkpoint), tokens) == 0
    assert engine.description.startswith("torchao ") and engine.dtype == "float32"
    for name, entry in checkpoint.weights.items():
        assert torch.equal(engine.weight(name), entry.grid.value())
    assert engine.continue_greedily([1, 2, 3], 4) == restore_greedily(checkpoint, [1, 2, 3], 4)


def restore_greedily(checkpoint, ids: list[int], count: int) -> list[int]:
    model, ids = restore(checkpoint), list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


def test_another_dtype_keeps_codes_and_scales(frozen, exported, tokens: Tensor) -> None:
    checkpoint = frozen(preset("w4a16_g32"))
    engine = TorchaoEngine(dtype="bfloat16")
    engine.load(exported(TorchaoExporter(), checkpoint))
    entry = checkpoint.weights["model.layers.0.mlp.up_proj"]
    weight = engine.model.get_submodule("model.layers.0.mlp.up_proj").weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight.qdata, entry.grid.codes)
    assert torch.equal(weight.scale, entry.grid.scale.float())
    assert 0 < max_logit_difference(engine.logits, restore(checkpoint), tokens) < 1


def test_another_formats_export_is_named(frozen, exported, tmp_path: Path) -> None:
    directory = exported(CompressedTensorsExporter(), frozen(preset("w4a16_g32")))
    with pytest.raises(InputError, match="loads exports of the format torchao; this one is compressed-tensors"):
        TorchaoEngine().load(directory)
