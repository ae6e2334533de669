"""Every format x every scheme: written and read back without a mismatch, or refused with a format that takes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qat.checkpoint import QuantizedCheckpoint
from qat.config.compose import choices
from qat.errors import InputError
from qat.evaluate.parity import Parity, parity
from qat.export.base import folder_bytes
from qat.jobs.stages.exports import refuse_unfit
from qat.models.tokenizer import load_tokenizer
from qat.paths import assets_dir

FORMATS, SCHEMES = [*choices("export")], [*choices("scheme")]


@pytest.fixture(scope="module")
def quantized(build, trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``quantized("w8a8", lossless=True)``: the folder of a trained checkpoint and its tokenizer, as a run has it.

    A lossless one has a value of 16 bits everywhere: its scales have few significant bits, and its rest is float16.
    """
    parent = tmp_path_factory.mktemp("quantized")

    def make(scheme_name: str, lossless: bool = False) -> Path:
        folder = parent / f"{scheme_name}-{lossless}"
        if not folder.is_dir():
            scheme = build("scheme", scheme_name, **({"scale_format": "lossless_fp16"} if lossless else {}))
            checkpoint = QuantizedCheckpoint.freeze(
                trained(scheme), scheme, rest_dtype=torch.float16 if lossless else None
            )
            checkpoint.save(folder, load_tokenizer(assets_dir() / "tiny_llama"))
        return folder

    return make


@pytest.fixture
def takes(build) -> Callable[[str, QuantizedCheckpoint], bool]:
    """``takes("gguf", checkpoint)``: whether the format takes it with its default options."""

    def ask(export_name: str, checkpoint: QuantizedCheckpoint) -> bool:
        try:
            build("export", export_name).takes(checkpoint)
        except InputError:
            return False
        return True

    return ask


def test_a_format_holds_a_scheme_exactly_or_says_which_format_does(
    build, quantized, takes, scheme_name: str, export_name: str, tmp_path: Path, record_property
) -> None:
    """A scheme that is refused as it is gets a second chance with lossless scales."""
    exporter = build("export", export_name)
    for lossless in (False, True):
        folder, refusal = quantized(scheme_name, lossless), None
        checkpoint = QuantizedCheckpoint.load(folder)
        try:
            exporter.write(checkpoint, tmp_path / "export", folder)
        except InputError as error:
            refusal = str(error)
        if refusal is None:
            caches = exporter.read_kv_cache(tmp_path / "export")
            found = parity(checkpoint, exporter.read(tmp_path / "export"), exporter.holds_activations, caches)
            assert found == Parity(len(checkpoint.weights), 0, 0, 0)
            assert folder_bytes(tmp_path / "export") <= exporter.bytes_needed(checkpoint, folder)
            return
        record_property("refused", refusal)
        assert not list(tmp_path.iterdir())
        if takes(export_name, checkpoint):  # only its numbers are refused: it says with what others they would do
            assert re.search(r"(scale_format|dtype)=\w+", refusal), refusal
            continue
        with pytest.raises(InputError, match=re.escape(refusal)) as raised:
            refuse_unfit({export_name: exporter}, checkpoint)
        named = str(raised.value).partition("formats that take it: ")[2].replace(" (weights only)", "").split(", ")
        assert named == [name for name in FORMATS if name != export_name and takes(name, checkpoint)]


def test_every_scheme_has_a_format(quantized, takes, scheme_name: str) -> None:
    checkpoint = QuantizedCheckpoint.load(quantized(scheme_name))
    assert any(takes(name, checkpoint) for name in FORMATS)


def test_every_format_has_a_scheme(quantized, takes, export_name: str) -> None:
    checkpoints = (QuantizedCheckpoint.load(quantized(name, lossless=True)) for name in SCHEMES)
    assert any(takes(export_name, checkpoint) for checkpoint in checkpoints)
