"""Streaming against prepare, RTN and freeze on the model in memory: every bit of the two checkpoints."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import copy_tokenizer, random_llama
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.evaluate.parity import parity
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.fake_quant import FakeQuantizer
from qat.models import hf
from qat.models.skeleton import Skeleton
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq import stream as stream_module
from qat.ptq.base import PTQ
from qat.ptq.rtn import RTN
from qat.ptq.stream import ReadAhead, stream
from qat.scheme import Scheme, preset
from qat.tensor_files import blocks

CHANNEL = {"num_bits": 4, "strategy": "channel"}
MIXED = Scheme(
    {
        "body": {"targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "group", "group_size": 32}},
        "ends": {"targets": ["Embedding", "lm_head"], "weights": CHANNEL},
    },
    scale_format="lossless_fp16",
)
TENSOR = Scheme({"all": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "tensor", "symmetric": False}}})
ENDS = Scheme({"ends": {"targets": ["Embedding"], "weights": CHANNEL}})


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even the tensors of these models are cut, into pieces of unequal size, and mapped more than once."""
    monkeypatch.setattr(stream_module, "_CHUNK", 700)
    monkeypatch.setattr(stream_module, "_MAPPED", 2)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)


def saved(model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.bfloat16, shard: str = "40KB") -> Path:
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    copy_tokenizer(folder)
    return folder


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=16))


def in_memory(folder: Path, scheme: Scheme, algorithm: RTN, rest_dtype: torch.dtype | None) -> QuantizedCheckpoint:
    loaded = hf.load(str(folder))
    prepare(loaded.model, scheme, observer=MinMax())
    algorithm.run(loaded.model, [])
    return QuantizedCheckpoint.freeze(loaded.model, scheme, loaded.task, rest_dtype)


def assert_same(streamed: QuantizedCheckpoint, frozen: QuantizedCheckpoint) -> None:
    assert sorted(streamed.weights) == sorted(frozen.weights)
    for name, entry in frozen.weights.items():
        other = streamed.weights[name]
        ours, theirs = other.grid, entry.grid
        for part in ("codes", "scale", "zero_point"):
            a, b = getattr(ours, part), getattr(theirs, part)
            assert (a is None) == (b is None)
            assert b is None or (a.dtype == b.dtype and torch.equal(a, b)), f"{name}: {part}"
            assert b is None or getattr(other.layout, part).shape == b.shape
        assert (other.scheme, other.kind, other.input_scale) == (entry.scheme, entry.kind, None)
    assert sorted(streamed.rest) == sorted(frozen.rest)
    for name, tensor in frozen.rest.items():
        assert streamed.rest[name].dtype == tensor.dtype
        assert torch.equal(streamed.rest[name], tensor), name
        assert torch.equal(torch.cat([*streamed.rest_blocks(name)]), tensor), name
        layout = streamed.rest_layout[name]
        assert (layout.shape, layout.dtype, layout.is_meta) == (tensor.shape, tensor.dtype, True)
    for what in ("scheme", "config", "task", "tied", "conv1d", "generation_config", "nbytes"):
        assert getattr(streamed, what) == getattr(frozen, what), what


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("observer", [MinMax(), MSE(candidates=8)])
@pytest.mark.parametrize(
    "scheme",
    [
        *map(preset, ("w4a16_g32", "w8a8", "w4a8_g32", "w2a16_g32_asym", "w4a16_channel")),
        MIXED,
        TENSOR,
        ENDS,
        *map(preset, ("w2a16_g32_ternary", "w4a16_g32_head8", "w8a8_kv8")),
    ],
    ids=[
        "g32",
        "w8a8",
        "w4a8",
        "asym",
        "channel",
        "mixed",
        "tensor",
        "embedding",
        "ternary",
        "head8",
        "kv8",
    ],
)
def test_a_llama_is_quantized_to_the_same_bits(tmp_path: Path, scheme: Scheme, observer: MinMax, tie: bool) -> None:
    folder = saved(random_llama(tie_word_embeddings=tie), tmp_path / "model")
    algorithm = RTN(observer)
    assert_same(stream(folder, scheme, algorithm, torch.bfloat16), in_memory(folder, scheme, algorithm, torch.bfloat16))


@pytest.mark.parametrize("rest", [None, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_the_rest_is_rounded_to_the_same_bits(tmp_path: Path, stored: torch.dtype, rest: torch.dtype | None) -> None:
    folder = saved(random_llama(), tmp_path / "model", stored)
    scheme, algorithm = preset("w4a16_channel"), RTN(MinMax())
    assert_same(stream(folder, scheme, algorithm, rest), in_memory(folder, scheme, algorithm, rest))


@pytest.mark.parametrize("ignore", [[], ["transformer.h.0.mlp.c_fc"]])
@pytest.mark.parametrize("observer", [MinMax(), MSE(candidates=8)])
def test_gpt2_is_transposed(tmp_path: Path, observer: MinMax, ignore: list[str]) -> None:
    scheme = Scheme({"a": {"targets": ["Linear"], "weights": {**CHANNEL, "symmetric": False}}}, ignore=ignore)
    folder = saved(gpt2(), tmp_path / "model", torch.float32)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    streamed = stream(folder, scheme, RTN(observer), torch.float16)
    assert_same(streamed, in_memory(folder, scheme, RTN(observer), torch.float16))
    assert len(streamed.conv1d) == 8
    assert streamed.generation_config is not None
    assert streamed.generation_config["eos_token_id"] == [0, 5]


def test_a_masked_lm_is_quantized_to_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    folder = saved(BertForMaskedLM(BertConfig(vocab_size=100, **sizes)), tmp_path / "model")
    scheme, algorithm = preset("w8a16"), RTN(MinMax())
    assert_same(stream(folder, scheme, algorithm), in_memory(folder, scheme, algorithm, None))


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_that_is_stored_is_tied_only_if_it_is_the_embedding(tmp_path: Path, equal: bool) -> None:
    folder = saved(random_llama(), tmp_path / "model", shard="1GB")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone() + (0 if equal else 1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    scheme, algorithm = preset("w4a16_g32"), RTN(MinMax())
    streamed = stream(folder, scheme, algorithm)
    assert_same(streamed, in_memory(folder, scheme, algorithm, None))
    assert bool(streamed.tied) == equal


def test_a_tied_weight_may_be_stored_under_its_second_name(tmp_path: Path) -> None:
    folder = saved(random_llama(), tmp_path / "model", shard="1GB")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert_same(stream(folder, MIXED, RTN(MinMax())), in_memory(folder, MIXED, RTN(MinMax()), None))


def test_what_is_streamed_is_saved_and_exported(tmp_path: Path) -> None:
    folder = saved(random_llama(), tmp_path / "model")
    checkpoint = stream(folder, preset("w4a16_g32"), RTN(MinMax()), torch.bfloat16)
    checkpoint.save(tmp_path / "quantized")
    loaded = QuantizedCheckpoint.load(tmp_path / "quantized")
    assert_same(loaded, checkpoint)
    exporter = CompressedTensorsExporter(max_shard_size="20KB")
    exporter.write(checkpoint, tmp_path / "export")
    assert parity(loaded, exporter.read(tmp_path / "export")).exact
    assert len([*(tmp_path / "export").glob("model-*.safetensors")]) > 2


def test_planning_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = stream(saved(random_llama(), tmp_path / "model"), preset("w4a16_g32"), RTN(MinMax()), torch.float16)
    exporter = CompressedTensorsExporter()
    monkeypatch.setattr(Skeleton, "read", lambda _, name: pytest.fail(f"{name} was read"))
    assert exporter.weight_bytes(checkpoint) > 0 and checkpoint.nbytes > 0
    assert exporter.config(checkpoint)["dtype"] == "float16"


def test_a_large_weight_is_not_quantized_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only weights of at most ``_AHEAD`` numbers: here those of attention, and not those of the MLP."""
    monkeypatch.setattr(stream_module, "_AHEAD", 64 * 64)
    weights = stream(saved(random_llama(), tmp_path / "model"), preset("w4a16_g32"), RTN(MinMax())).weights
    assert isinstance(weights, ReadAhead)
    ahead = {}
    for name, following in pairwise(weights):
        assert weights[name].grid.codes.dtype == torch.int8
        ahead[following] = weights._ahead is not None
    assert ahead == {name: weights[name].shape.numel() <= 64 * 64 for name in ahead}
    assert {*ahead.values()} == {True, False}


def test_grids_are_right_in_any_order(tmp_path: Path) -> None:
    folder = saved(random_llama(), tmp_path / "model")
    scheme = preset("w4a16_g32")
    streamed, frozen = stream(folder, scheme, RTN(MinMax())), in_memory(folder, scheme, RTN(MinMax()), None)
    names = list(frozen.weights)
    for name in [*names[:3], names[1], names[-1], names[0], names[0], *names[2:4], *reversed(names)]:
        assert torch.equal(streamed.weights[name].grid.codes, frozen.weights[name].grid.codes)


def test_the_number_of_torch_threads_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    checkpoint = stream(saved(random_llama(), tmp_path / "model"), preset("w4a16_g32"), RTN(MinMax()))
    for entry in checkpoint.weights.values():
        assert entry.grid.codes.dtype == torch.int8
    assert torch.get_num_threads() == before


def test_a_weight_that_is_not_finite_is_named_when_it_is_read(tmp_path: Path) -> None:
    model = random_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[100, 5] = float("inf")
    checkpoint = stream(saved(model, tmp_path / "model"), preset("w4a16_g32"), RTN(MinMax()))
    assert checkpoint.weights["model.layers.0.mlp.up_proj"].grid.codes.dtype == torch.int8
    with pytest.raises(RunError, match="model.layers.1.mlp.up_proj.weight holds numbers that are not finite"):
        checkpoint.save(tmp_path / "quantized")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_number_too_large_for_the_rest_is_named(tmp_path: Path) -> None:
    model = random_llama()
    with torch.no_grad():
        model.model.norm.weight[3] = 1e6
    checkpoint = stream(saved(model, tmp_path / "model"), preset("w4a16_g32"), RTN(MinMax()), torch.float16)
    with pytest.raises(InputError, match="model.norm.weight holds 999424, and float16 ends at 65504"):
        _ = checkpoint.rest["model.norm.weight"]


def test_static_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="static activations, keys and values included, get their range from data"):
        stream(tmp_path, preset("w8a8_static"), RTN(MinMax()))


def test_an_algorithm_that_needs_data_is_refused(tmp_path: Path) -> None:
    class Reconstruction(PTQ):
        def run(self, model: torch.nn.Module, batches: object) -> None:
            """Never called."""

    with pytest.raises(InputError, match="Reconstruction looks at the whole model at work"):
        stream(tmp_path, preset("w4a16_g32"), Reconstruction())


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def test_names_of_an_older_kind_are_refused(tmp_path: Path) -> None:
    folder = saved(gpt2(), tmp_path / "model", shard="1GB")
    rename(folder, "transformer.", "")
    assert hf.load(str(folder)).model is not None, "transformers renames them"
    with pytest.raises(
        InputError, match="no tensor 'lm_head.weight', which a GPT2LMHeadModel needs.*cannot be streamed"
    ):
        stream(folder, preset("w8a16"), RTN(MinMax()))


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    folder = saved(random_llama(num_hidden_layers=3), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2, "layer_types": None}))
    with pytest.raises(InputError, match=r"has a tensor 'model.layers.2.*no place"):
        stream(folder, preset("w4a16_g32"), RTN(MinMax()))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = saved(random_llama(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(InputError, match=r"mlp.gate_proj.weight' in .* has shape \[128, 64\], config.json makes it"):
        stream(folder, preset("w4a16_g32"), RTN(MinMax()))


def test_rows_are_shown_to_the_algorithm_a_few_at_a_time(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Watching(RTN):
        def set_range(self, quantizer: FakeQuantizer, weight: torch.Tensor) -> None:
            seen.append(tuple(weight.shape))
            super().set_range(quantizer, weight)

    checkpoint = stream(saved(random_llama(), tmp_path / "model"), preset("w4a16_g32"), Watching(MinMax()))
    assert seen == [], "nothing is computed before it is asked for"
    assert checkpoint.weights["model.layers.0.mlp.down_proj"].grid.codes.shape == (64, 128)
    assert {columns for _, columns in seen} == {128}
    assert {rows for rows, _ in seen} == {5, 6}
