"""Mixed bits in the formats that take them: what is read back is what was frozen; others refuse in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import random_llama
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.compose import component
from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference, parity
from qat.mixed_precision.allocation import scheme_of
from qat.models.outputs import head_names
from qat.prepare import prepare
from qat.restore import restore
from qat.scheme import Scheme, match

WIDTHS = (2, 3, 4, 8)


def frozen(**weights: Any) -> QuantizedCheckpoint:
    """A tiny Llama whose layers have 2, 3, 4, 8, 2, ... bits."""
    base = Scheme({"weights": {"targets": ["Linear"], "weights": {"num_bits": 4, **weights}}}, [], "lossless_fp16")
    model = random_llama(tie_word_embeddings=False)
    matched = match(base, model, head_names(model))
    bits = {name: WIDTHS[index % len(WIDTHS)] for index, name in enumerate(matched)}
    mixed = scheme_of(base, matched, bits)
    prepare(model, mixed)
    checkpoint = QuantizedCheckpoint.freeze(model, mixed, rest_dtype=torch.float16)
    assert {name: entry.args.num_bits for name, entry in checkpoint.weights.items()} == bits
    return checkpoint


def exporter(name: str) -> Any:
    return instantiate(component("export", name), f"export.{name}")


@pytest.mark.parametrize("name", ["compressed_tensors", "dequantized", "torchao"])
@pytest.mark.parametrize("grid", [{"strategy": "channel"}, {"strategy": "group", "group_size": 32}])
def test_every_integer_is_read_back(name: str, grid: dict[str, Any], tmp_path: Path) -> None:
    checkpoint, format = frozen(**grid), exporter(name)
    format.write(checkpoint, tmp_path / name)
    found = parity(checkpoint, format.read(tmp_path / name), format.holds_activations)
    assert found.mismatched_codes == 0
    assert found.mismatched_scales == 0


def test_transformers_computes_the_checkpoint(tokens: Tensor, tmp_path: Path) -> None:
    checkpoint = frozen(strategy="channel")
    exporter("compressed_tensors").write(checkpoint, tmp_path / "export")
    engine = TransformersEngine()
    engine.load(tmp_path / "export")
    assert max_logit_difference(restore(checkpoint), engine.logits, tokens) <= 1e-4


def test_a_format_of_one_scheme_refuses() -> None:
    with pytest.raises(InputError, match="gptq holds one scheme"):
        exporter("gptq").takes(frozen(strategy="channel"))
