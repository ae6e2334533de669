from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import random_llama
from transformers import AutoModelForCausalLM

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.evaluate.parity import Parity, parity
from qat.export import compressed_tensors as module
from qat.export import ct_tensors
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.ct_config import group_of, module_scheme, parse_config
from qat.export.ct_tensors import compress, decompress, unpackable
from qat.grid import Grid, qrange
from qat.prepare import prepare
from qat.quantized import KVScales, QuantizedWeight
from qat.restore import restore
from qat.scheme import Scheme

ROWS, COLUMNS, GROUP = 10, 40, 8  # neither is a multiple of 32, so no int32 word ends with a row
DYNAMIC = {"num_bits": 8, "strategy": "token", "dynamic": True}
STATIC = {"num_bits": 8, "strategy": "tensor", "dynamic": False}


def weights(bits: int = 4, strategy: str = "group", symmetric: bool = True) -> dict:
    size = GROUP if strategy == "group" else None
    return {"num_bits": bits, "strategy": strategy, "group_size": size, "symmetric": symmetric}


def random_grid(args: dict, dtype: torch.dtype = torch.float32, seed: int = 0) -> Grid:
    """Codes over the whole range, ends included; scales of very different size."""
    generator = torch.Generator().manual_seed(seed)
    low, high = qrange(args["num_bits"])
    codes = torch.randint(low, high + 1, (ROWS, COLUMNS), generator=generator).to(torch.int8)
    codes[0, 0], codes[-1, -1] = low, high
    shape = {"tensor": (1,), "channel": (ROWS, 1), "group": (ROWS, COLUMNS // GROUP)}[args["strategy"]]
    scale = (torch.rand(shape, generator=generator) * 10.0 ** torch.randint(-4, 1, shape, generator=generator)).to(
        dtype
    )
    zero_point = None
    if not args["symmetric"]:
        zero_point = torch.randint(low, high + 1, shape, generator=generator).to(torch.int8)
    return Grid(codes, scale, zero_point)


def entry(args: dict, inputs: dict | None = None, dtype: torch.dtype = torch.float32, **more) -> QuantizedWeight:
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=inputs)
    return QuantizedWeight(random_grid(args, dtype), scheme, more.pop("kind", "Linear"), **more)


def checkpoint(entries: dict[str, QuantizedWeight], **more) -> QuantizedCheckpoint:
    """As ``freeze`` makes it, without a model."""
    rest = {
        "model.embed_tokens.weight": torch.randn(12, COLUMNS),
        "model.norm.weight": torch.ones(COLUMNS),
        "lm_head.weight": torch.randn(12, COLUMNS),
        "model.layers.0.q_proj.bias": torch.randn(ROWS),
    }
    first = next(iter(entries.values()))
    scheme = Scheme({"all": first.scheme}, scale_format="fp32")
    config = {"model_type": "llama", "dtype": "float32"}
    return QuantizedCheckpoint(entries, more.pop("rest", rest), scheme, config, **more)


def written(entries: dict[str, QuantizedWeight], directory: Path, **more) -> dict:
    CompressedTensorsExporter().write(checkpoint(entries, **more), directory)
    return json.loads((directory / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("inputs", [None, DYNAMIC], ids=["packed", "int"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
def test_round_trip_is_exact_at_every_width(tmp_path, strategy, symmetric, dtype, inputs):
    exporter = CompressedTensorsExporter()
    for bits in range(2, 9):
        made = checkpoint({"model.layers.0.q_proj": entry(weights(bits, strategy, symmetric), inputs, dtype)})
        exporter.write(made, tmp_path / str(bits))
        result = parity(made, exporter.read(tmp_path / str(bits)))
        assert result == Parity(1, 0, 0, 0), f"{bits} bits"


@pytest.mark.parametrize("rows", [1, 32, 33, 64, 70, 100])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_a_module_read_in_pieces_is_the_whole(monkeypatch, rows, bits, symmetric):
    monkeypatch.setitem(globals(), "ROWS", rows)
    one = entry(weights(bits, symmetric=symmetric))
    if not unpackable(one):
        pytest.skip("refused when it is written")
    local, scheme = compress(one), module_scheme(one)
    monkeypatch.setattr(ct_tensors, "_PIECE", 1)
    found = [*ct_tensors.pieces(local, scheme)]
    assert len(found) == max(1, -(-(rows - 32) // 32))
    grids = [ct_tensors.to_grid(piece, scheme) for piece in found]
    assert torch.equal(torch.cat([grid.codes for grid in grids]), one.grid.codes)
    assert torch.equal(torch.cat([grid.scale for grid in grids]), one.grid.scale)
    if not symmetric:
        assert torch.equal(torch.cat([grid.zero_point for grid in grids]), one.grid.zero_point)
    values = torch.cat([decompress(piece, scheme)["weight"] for piece in found])
    assert torch.equal(values, one.grid.value())


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_the_files_are_what_the_librarys_own_compressor_writes(bits, strategy, symmetric):
    """An independent way to the same bytes: compressed-tensors quantizes the values back to our integers."""
    made = entry(weights(bits, strategy, symmetric))
    scale, zero_point = torch.full_like(made.grid.scale, 0.5), made.grid.zero_point
    made = QuantizedWeight(Grid(made.grid.codes, scale, zero_point), made.scheme, "Linear")
    state = {"weight": made.grid.value(), "weight_scale": scale}
    if zero_point is not None:
        state["weight_zero_point"] = zero_point
    expected = BaseCompressor.get_value_from_registry("pack-quantized").compress(state, made.scheme)
    ours = compress(made)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name
        assert ours[name].dtype == tensor.dtype, name


def test_four_bits_are_packed_low_nibble_first_with_an_offset_of_eight():
    codes = torch.tensor([[-8, 7, 0, 1, -1, 2, 3, 4]], dtype=torch.int8)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights(4, "channel"))
    packed = compress(QuantizedWeight(Grid(codes, torch.ones(1, 1)), scheme, "Linear"))["weight_packed"]
    assert packed.tolist() == [[0xCBA798F0 - 2**32]]


def test_weight_bytes_are_those_of_the_tensors(tmp_path):
    for index, (args, inputs) in enumerate(
        (weights(bits, strategy, symmetric), inputs)
        for bits in (3, 8)
        for strategy in ("tensor", "group")
        for symmetric in (True, False)
        for inputs in (None, DYNAMIC)
    ):
        made = checkpoint({"model.layers.0.q_proj": entry(args, inputs, torch.bfloat16)})
        exporter, directory = CompressedTensorsExporter(), tmp_path / str(index)
        exporter.write(made, directory)
        tensors = load_file(directory / "model.safetensors").values()
        assert exporter.weight_bytes(made) == sum(tensor.nbytes for tensor in tensors)


def test_formats_follow_the_librarys_inference(tmp_path):
    cases = {"w4a16": (4, None), "w8a16": (8, None), "w8a8": (8, DYNAMIC), "w4a8": (4, DYNAMIC)}
    formats = {
        name: written({"model.layers.0.q_proj": entry(weights(bits), inputs)}, tmp_path / name)["format"]
        for name, (bits, inputs) in cases.items()
    }
    packed, unpacked = "pack-quantized", "int-quantized"
    assert formats == {"w4a16": packed, "w8a16": packed, "w8a8": unpacked, "w4a8": unpacked}


def test_quantization_config_is_the_librarys_and_names_what_stayed_float(tmp_path):
    raw = written({"model.layers.0.q_proj": entry(weights(4))}, tmp_path / "out")
    config = QuantizationConfig.model_validate(raw)
    assert raw["quant_method"] == "compressed-tensors"
    assert raw["quantization_status"] == "compressed"
    assert config.ignore == ["lm_head", "model.embed_tokens"]  # not the norm: it is no matrix
    (group,) = config.config_groups.values()
    assert group.targets == ["Linear"]
    assert group.weights.group_size == GROUP
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


def test_several_groups_are_listed_by_full_names(tmp_path):
    entries = {
        "model.layers.0.q_proj": entry(weights(4)),
        "model.layers.0.k_proj": entry(weights(4)),
        "model.layers.0.up_proj": entry(weights(8, "channel"), DYNAMIC),
    }
    raw = written(entries, tmp_path / "out")
    groups = {tuple(group["targets"]): group["format"] for group in raw["config_groups"].values()}
    assert groups == {
        ("model.layers.0.q_proj", "model.layers.0.k_proj"): "pack-quantized",
        ("model.layers.0.up_proj",): "int-quantized",
    }
    assert raw["format"] == "mixed-precision"
    assert parity(checkpoint(entries), CompressedTensorsExporter().read(tmp_path / "out")).exact


def test_the_same_weights_with_other_activations_are_another_group(tmp_path):
    raw = written({"a": entry(weights(8)), "b": entry(weights(8), DYNAMIC)}, tmp_path / "out")
    groups = {tuple(group["targets"]): group["input_activations"] is None for group in raw["config_groups"].values()}
    assert groups == {("a",): True, ("b",): False}


def test_a_tied_weight_is_listed_by_its_full_name(tmp_path):
    """A class name would reach the second name too, under which the file has nothing."""
    entries = {"model.embed_tokens": entry(weights(4), kind="Embedding"), "a": entry(weights(4))}
    raw = written(entries, tmp_path / "out", rest={}, tied=[["model.embed_tokens.weight", "lm_head.weight"]])
    assert [group["targets"] for group in raw["config_groups"].values()] == [["model.embed_tokens", "a"]]
    assert raw["ignore"] == ["lm_head"]


def test_every_target_of_the_scheme_is_written(tmp_path):
    made = checkpoint({"a": entry(weights(4)), "lm_head": entry(weights(4))}, rest={})
    group = {"targets": ["Linear", "lm_head"], "weights": weights(4)}
    made.scheme = Scheme({"one": group, "two": {**group, "targets": ["lm_head", "Embedding"]}}, scale_format="fp32")
    (found,) = CompressedTensorsExporter().config(made)["quantization_config"]["config_groups"].values()
    assert found["targets"] == ["Linear", "lm_head", "Embedding"]


def test_matrices_of_any_rank_are_ignored_and_quantized_modules_never(tmp_path):
    rest = {"conv.weight": torch.ones(2, 2, 3, 3), "norm.weight": torch.ones(2), "norm.bias": torch.ones(2)}
    raw = written({"a": entry(weights(4))}, tmp_path / "out", rest=rest, tied=[["norm.bias", "a.bias"]])
    assert raw["ignore"] == ["conv"]


def test_tied_names_are_ignored_and_stored_once(tmp_path):
    rest = {"model.embed_tokens.weight": torch.randn(12, COLUMNS)}
    tied = [["model.embed_tokens.weight", "lm_head.weight"]]
    raw = written({"model.layers.0.q_proj": entry(weights(4))}, tmp_path / "out", rest=rest, tied=tied)
    assert raw["ignore"] == ["lm_head", "model.embed_tokens"]
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")


def test_static_activations_have_the_librarys_names(tmp_path):
    scale, zero_point = torch.tensor([0.05]), torch.tensor([3], dtype=torch.int8)
    made = entry(weights(8, "channel"), {**STATIC, "symmetric": False}, input_scale=scale, input_zero_point=zero_point)
    written({"model.layers.0.q_proj": made}, tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(tensors["model.layers.0.q_proj.input_scale"], scale)
    assert torch.equal(tensors["model.layers.0.q_proj.input_zero_point"], zero_point)
    read = CompressedTensorsExporter().read(tmp_path / "out")
    assert parity(checkpoint({"model.layers.0.q_proj": made}), read).exact
    tensors["model.layers.0.q_proj.input_scale"] *= 2
    tensors["model.layers.0.q_proj.input_zero_point"] += 1
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    changed = parity(checkpoint({"model.layers.0.q_proj": made}), CompressedTensorsExporter().read(tmp_path / "out"))
    assert changed == Parity(1, 0, 1, 1)


def test_the_rest_is_written_bit_for_bit(tmp_path):
    made = checkpoint({"model.layers.0.q_proj": entry(weights(4))})
    made.rest["model.norm.weight"] = torch.tensor([1.0, math.pi], dtype=torch.bfloat16)
    CompressedTensorsExporter().write(made, tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    for name, tensor in made.rest.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_weights_above_the_shard_size_are_split_and_indexed(tmp_path):
    made = checkpoint({f"model.layers.{i}.q_proj": entry(weights(4)) for i in range(4)})
    exporter = CompressedTensorsExporter(max_shard_size="1KB")
    exporter.write(made, tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files == sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == exporter.weight_bytes(made)
    for file in files:
        with safe_open(tmp_path / "out" / file, "pt") as shard:
            assert {name for name, where in index["weight_map"].items() if where == file} == set(shard.keys())
    assert parity(made, exporter.read(tmp_path / "out")).exact


def test_an_unreadable_shard_size_is_refused():
    with pytest.raises(InputError, match="max_shard_size '5 gigs' is no size"):
        CompressedTensorsExporter(max_shard_size="5 gigs")


def test_dequantize_is_asked_for_only_where_transformers_needs_it_and_is_right(tmp_path):
    embedding = {"model.embed_tokens": entry(weights(4), kind="Embedding")}
    cases = {
        "symmetric": ({"a": entry(weights(4))}, None),
        "packed zero points": ({"a": entry(weights(4, symmetric=False))}, True),
        "one zero point": ({"a": entry(weights(4, "tensor", False))}, None),
        "zero points beside int8": ({"a": entry(weights(4, symmetric=False), DYNAMIC)}, None),
        "embedding": (embedding, True),
        "two groups": ({"a": entry(weights(4, symmetric=False)), "b": entry(weights(8))}, None),
    }
    found = {name: written(entries, tmp_path / name, rest={}).get("dequantize") for name, (entries, _) in cases.items()}
    assert found == {name: expected for name, (_, expected) in cases.items()}


def test_conv1d_is_refused_with_the_reason(tmp_path):
    made = checkpoint({"transformer.h.0.attn.c_attn": entry(weights(4))}, conv1d=["transformer.h.0.attn.c_attn"])
    with pytest.raises(
        InputError,
        match=r"c_attn: transformers builds it as Conv1D.*; a run without an export is export=",
    ):
        CompressedTensorsExporter().write(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_four_bit_zero_points_of_few_rows_are_refused(tmp_path):
    """compressed-tensors 0.20 cannot view one packed word as bytes: reading back would be a traceback."""
    scheme = QuantizationScheme(targets=["Linear"], weights=weights(4, symmetric=False))
    few = Grid(torch.zeros(8, 16, dtype=torch.int8), torch.ones(8, 2), torch.zeros(8, 2, dtype=torch.int8))
    made = checkpoint({"model.score": QuantizedWeight(few, scheme, "Linear")})
    with pytest.raises(InputError, match="model.score: .* 4-bit zero points of 8 rows"):
        CompressedTensorsExporter().write(made, tmp_path / "out")
    with pytest.raises(RuntimeError):  # goes once the library is fixed; then drop the refusal
        BaseCompressor.get_value_from_registry("pack-quantized").decompress(
            compress(made.weights["model.score"]), scheme
        )


@pytest.mark.parametrize("other", [entry(weights(8)), entry(weights(4), DYNAMIC)], ids=["bits", "activations"])
def test_a_quantized_embedding_beside_another_scheme_is_refused(tmp_path, other):
    made = checkpoint({"model.embed_tokens": entry(weights(4), kind="Embedding"), "model.layers.0.q_proj": other})
    with pytest.raises(InputError, match="leave the embedding float or give every .* one scheme$"):
        CompressedTensorsExporter().write(made, tmp_path / "out")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("rows", [1, 4, 8, 9, 16])
def test_zero_points_are_refused_exactly_where_the_library_fails(bits, n_groups, rows):
    args = weights(bits, "group" if n_groups > 1 else "channel", symmetric=False)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format="pack-quantized")
    shape = (rows, n_groups)
    grid = Grid(torch.ones(rows, 16, dtype=torch.int8), torch.ones(shape), torch.ones(shape, dtype=torch.int8))
    made = QuantizedWeight(grid, scheme, "Linear")
    try:
        decompress(compress(made), scheme)
    except RuntimeError:
        assert not unpackable(made)
    else:
        assert unpackable(made)


def test_a_quantized_embedding_with_activations_is_refused(tmp_path):
    made = checkpoint({"model.embed_tokens": entry(weights(8), DYNAMIC, kind="Embedding")})
    with pytest.raises(InputError, match="has the same weight-only scheme"):
        CompressedTensorsExporter().write(made, tmp_path / "out")


def test_other_values_of_the_librarys_own_decompressor_are_an_error(tmp_path, monkeypatch):
    written({"m.0.q_proj": entry(weights(4))}, tmp_path / "out")
    monkeypatch.setattr(module, "decompress", lambda local, scheme: {"weight": decompress(local, scheme)["weight"] + 1})
    with pytest.raises(RunError, match="m.0.q_proj: compressed-tensors makes other values"):
        CompressedTensorsExporter().read(tmp_path / "out")["m.0.q_proj"]


def test_a_config_of_another_method_or_without_sense_is_named(tmp_path):
    raw = written({"a": entry(weights(4))}, tmp_path / "out")
    with pytest.raises(InputError, match="no quantization_config of compressed-tensors"):
        parse_config({"quantization_config": {**raw, "quant_method": "gptq"}})
    with pytest.raises(InputError, match=r"quantization_config\.config_groups.*; export again"):
        parse_config({"quantization_config": {**raw, "config_groups": 3}})


def test_a_group_without_a_format_has_that_of_the_whole(tmp_path):
    raw = written({"a": entry(weights(8), DYNAMIC)}, tmp_path / "out")
    for group in raw["config_groups"].values():
        del group["format"]
    (group,) = parse_config({"quantization_config": raw}).config_groups.values()
    assert group.format == "int-quantized"


def test_the_group_of_a_module_is_the_one_that_names_it(tmp_path):
    raw = written({"a": entry(weights(4)), "b": entry(weights(8))}, tmp_path / "out")
    config = parse_config({"quantization_config": raw})
    assert [group_of(config, name).weights.num_bits for name in "ab"] == [4, 8]
    with pytest.raises(InputError, match="no config group of quantization_config names 'c'"):
        group_of(config, "c")


INT4 = {"num_bits": 4, "strategy": "group", "group_size": 32}
INT8 = {"num_bits": 8, "strategy": "channel"}
HEADS = {
    "as all": {"all": {"targets": ["Linear", "lm_head"], "weights": INT4}},
    "W8A8": {"all": {"targets": ["Linear", "lm_head"], "weights": INT8, "input_activations": DYNAMIC}},
    "of its own scheme": {
        "blocks": {"targets": ["Linear"], "weights": INT4},
        "head": {"targets": ["lm_head"], "weights": INT8, "input_activations": DYNAMIC},
    },
    "alone": {"head": {"targets": ["lm_head"], "weights": INT8}},
}


@pytest.mark.parametrize("groups", HEADS.values(), ids=HEADS)
def test_a_quantized_head_is_held_and_plain_transformers_loads_it(tmp_path, groups):
    model, scheme = random_llama(tie_word_embeddings=False), Scheme(groups)
    prepare(model, scheme)
    made, exporter = QuantizedCheckpoint.freeze(model, scheme), CompressedTensorsExporter()
    exporter.write(made, tmp_path / "out")
    assert "lm_head" in made.weights
    assert parity(made, exporter.read(tmp_path / "out")).exact
    raw = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert "lm_head" not in raw["ignore"]
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        assert torch.equal(loaded(tokens).logits, restore(made)(tokens).logits)


def altered(directory: Path, **changes) -> Path:
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, **changes}, directory / "model.safetensors")
    return directory


def test_parity_sees_a_flipped_bit_in_the_file(tmp_path):
    made = checkpoint({"model.layers.0.q_proj": entry(weights(4))})
    CompressedTensorsExporter().write(made, tmp_path / "out")
    packed = load_file(tmp_path / "out/model.safetensors")["model.layers.0.q_proj.weight_packed"].clone()
    packed[0, 0] ^= 0b10001  # one bit in each of the first two codes
    altered(tmp_path / "out", **{"model.layers.0.q_proj.weight_packed": packed})
    result = parity(made, CompressedTensorsExporter().read(tmp_path / "out"))
    assert result.mismatched_codes == 2
    assert result.mismatched_scales == 0


def test_damaged_exports_are_named(tmp_path):
    exporter = CompressedTensorsExporter(max_shard_size="1KB")
    exporter.write(checkpoint({f"m.{i}.q_proj": entry(weights(4)) for i in range(3)}), tmp_path / "out")
    shard = sorted((tmp_path / "out").glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    with pytest.raises(InputError, match=f"{shard.name} is damaged"):
        exporter.read(tmp_path / "out")
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name} is missing"):
        exporter.read(tmp_path / "out")
    shard.write_bytes(content)
    with pytest.raises(InputError, match="no config.json"):
        exporter.read(tmp_path)
    (tmp_path / "out/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="no quantization_config of compressed-tensors"):
        exporter.read(tmp_path / "out")
    (tmp_path / "out/config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        exporter.read(tmp_path / "out")


@pytest.mark.parametrize("local", ["weight_packed", "weight_shape", "weight_zero_point"])
def test_a_missing_tensor_is_named_with_its_file(tmp_path, local):
    CompressedTensorsExporter().write(checkpoint({"m.0.q_proj": entry(weights(4, symmetric=False))}), tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    del tensors[f"m.0.q_proj.{local}"]
    save_file(tensors, tmp_path / "out/model.safetensors")
    with pytest.raises(InputError, match=f"model.safetensors lacks m.0.q_proj.{local}"):
        CompressedTensorsExporter().read(tmp_path / "out")


def kv_checkpoint(cache: dict, entries: dict[str, QuantizedWeight] | None = None, **more) -> QuantizedCheckpoint:
    made = checkpoint(entries or {"model.layers.0.self_attn.q_proj": entry(weights(4))}, **more)
    made.scheme = replace(made.scheme, kv_cache=cache)
    made.config |= {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16}
    if not cache["dynamic"]:
        made.kv_scales = {"model.layers.0.self_attn": KVScales(torch.tensor([0.5]), torch.tensor([1 / 3]))}
    return made


def test_static_keys_and_values_have_the_librarys_names(tmp_path):
    made, exporter = kv_checkpoint(STATIC), CompressedTensorsExporter()
    exporter.write(made, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert QuantizationConfig.model_validate(config).kv_cache_scheme == QuantizationArgs(**STATIC)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(tensors["model.layers.0.self_attn.k_scale"], torch.tensor([0.5]))
    assert torch.equal(tensors["model.layers.0.self_attn.v_scale"], torch.tensor([1 / 3]))
    assert exporter.weight_bytes(made) == sum(tensor.nbytes for tensor in tensors.values())
    assert parity(made, exporter.read(tmp_path / "out"), caches=exporter.read_kv_cache(tmp_path / "out")).exact
    save_file({**tensors, "model.layers.0.self_attn.v_scale": torch.tensor([0.25])}, tmp_path / "out/model.safetensors")
    found = parity(made, exporter.read(tmp_path / "out"), caches=exporter.read_kv_cache(tmp_path / "out"))
    assert found.mismatched_scales == 1 and not found.exact
    del tensors["model.layers.0.self_attn.v_scale"]
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(InputError, match=r"model.layers.0.self_attn.v_scale"):
        exporter.read_kv_cache(tmp_path / "out")


def test_a_scale_a_token_and_head_is_a_group_as_long_as_a_head(tmp_path):
    made, exporter = kv_checkpoint(DYNAMIC), CompressedTensorsExporter()
    exporter.write(made, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    expected = QuantizationArgs(num_bits=8, strategy="group", group_size=16, dynamic=True)
    assert QuantizationConfig.model_validate(config).kv_cache_scheme == expected
    assert exporter.read_kv_cache(tmp_path / "out") == {}
    made.config["kv_lora_rank"] = 8
    with pytest.raises(
        InputError, match="latent attention has keys and values of two sizes.* set scheme.kv_cache.strategy=tensor"
    ):
        exporter.takes(made)


def test_keys_and_values_can_be_left_to_the_engine(tmp_path):
    made, exporter = kv_checkpoint(DYNAMIC), CompressedTensorsExporter(kv_cache="engine")
    exporter.write(made, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["kv_cache_scheme"] is None
    assert parity(made, exporter.read(tmp_path / "out"), caches=exporter.read_kv_cache(tmp_path / "out")).exact
    with pytest.raises(InputError, match="leaves out the scales of keys and values, and these were calibrated"):
        exporter.takes(kv_checkpoint(STATIC))
    with pytest.raises(InputError, match="kv_cache 'none' is not one of scheme, engine"):
        CompressedTensorsExporter(kv_cache="none")


def test_a_kv_cache_that_transformers_would_ignore_is_refused():
    for entries in (
        {"model.embed_tokens": entry(weights(4), kind="Embedding")},
        {"model.layers.0.q_proj": entry(weights(4, symmetric=False))},
    ):
        with pytest.raises(InputError, match="dequantizes those while loading, and then ignores kv_cache_scheme"):
            CompressedTensorsExporter().takes(kv_checkpoint(DYNAMIC, entries))


def test_the_target_head_is_written_as_a_name(tmp_path):
    """No loader knows the word."""
    entries = {"model.layers.0.q_proj": entry(weights(4)), "lm_head": entry(weights(4))}
    made = checkpoint(entries, rest={})
    made.scheme = Scheme({"all": {"targets": ["Linear", "head"], "weights": weights(4)}}, scale_format="fp32")
    CompressedTensorsExporter().write(made, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["targets"] == ["model.layers.0.q_proj", "lm_head"]
