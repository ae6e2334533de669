from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import copy_tokenizer, random_llama
from transformers import AutoModelForCausalLM, GPT2Config

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.evaluate.parity import Parity, parity
from qat.export.dequantized import DequantizedExporter
from qat.grid import Grid
from qat.models.build import initialise
from qat.prepare import prepare
from qat.quantized import Deferred
from qat.restore import restore
from qat.scheme import Scheme
from qat.tensor_files import blocks

TOKENS = torch.arange(24).reshape(2, 12)


def frozen(
    bits=4, symmetric=True, scale_format="bf16", rest=torch.float16, model=None, ignore=(), **changes
) -> QuantizedCheckpoint:
    weights = {"num_bits": bits, "strategy": "group", "group_size": 32, "symmetric": symmetric}
    scheme = Scheme({"all": {"targets": ["Linear"], "weights": weights}}, list(ignore), scale_format)
    model = model or random_llama(**changes)
    prepare(model, scheme)
    return QuantizedCheckpoint.freeze(model, scheme, rest_dtype=rest)


def logits(directory):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()(TOKENS).logits


@pytest.mark.parametrize(
    ("bits", "symmetric", "scale_format", "rest", "stored"),
    [
        (4, True, "bf16", torch.float16, "float16"),  # 3 + 8 bits fill float16's 11
        (4, False, "lossless_fp16", torch.float16, "float16"),
        (8, True, "lossless_fp16", torch.float16, "float16"),
        (8, True, "lossless_bf16", torch.bfloat16, "bfloat16"),
        (4, True, "lossless_bf16", torch.bfloat16, "bfloat16"),
        (2, True, "lossless_bf16", torch.float16, "float16"),
    ],
)
def test_the_16_bit_twin_is_the_integer_model_bit_for_bit(tmp_path, bits, symmetric, scale_format, rest, stored):
    made, exporter = frozen(bits, symmetric, scale_format, rest), DequantizedExporter()
    exporter.write(made, tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {f"torch.{stored}"}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == stored
    assert parity(made, exporter.read(tmp_path / "out"), exporter.holds_activations) == Parity(14, 0, 0, 0)
    assert exporter.weight_bytes(made) == sum(tensor.nbytes for tensor in tensors.values())
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), restore(made)(TOKENS).logits)


def test_float32_holds_what_16_bits_do_not(tmp_path):
    made = frozen(8, scale_format="fp32", rest=torch.float32)
    DequantizedExporter(dtype="float32").write(made, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), restore(made)(TOKENS).logits)


@pytest.mark.parametrize(
    ("bits", "symmetric", "dtype", "needed", "remedy"),
    [
        (8, True, "auto", 15, "lossless_fp16"),
        (4, False, "auto", 12, "lossless_fp16"),
        (4, True, "bfloat16", 11, "lossless_bf16"),
        (8, False, "bfloat16", 16, "lossless_fp16 and export with export.dequantized.dtype=float16"),
    ],
)
def test_a_scheme_with_too_many_bits_is_refused_before_training(bits, symmetric, dtype, needed, remedy):
    message = rf"q_proj exactly.* need {needed} significand bits; quantize with scheme.scale_format={remedy}, "
    message += r"or set export\.dequantized\.dtype=float32$"
    with pytest.raises(InputError, match=message):
        DequantizedExporter(dtype=dtype).takes(frozen(bits, symmetric))


def test_an_inexact_tensor_of_the_rest_is_named_and_nothing_is_left(tmp_path):
    made = frozen(rest=torch.float32)
    with pytest.raises(InputError, match=r"model\.embed_tokens\.weight needs 2\d significand bits.*rest_dtype=float16"):
        DequantizedExporter().write(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_value_below_float16s_range_is_named(tmp_path):
    made = frozen()
    made.rest["model.norm.weight"] = torch.full((64,), 2.0**-40)
    with pytest.raises(InputError, match=r"1 of \d+ tensors.*model\.norm\.weight holds 9\.09495e-13, out of its range"):
        DequantizedExporter().write(made, tmp_path / "out")


def test_the_unquantized_weights_own_dtype_is_tried_first(tmp_path):
    """Codes and scales of 8 bits fit both types; only bfloat16 holds this rest."""
    made = frozen(scale_format="lossless_bf16", rest=torch.float32)
    made.rest = {name: tensor.bfloat16().float() for name, tensor in made.rest.items()}
    made.rest["model.norm.weight"][0] = 2.0**-40
    DequantizedExporter().write(made, tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}


def test_a_weight_is_computed_once_and_only_to_be_written(tmp_path):
    made, computed = frozen(), []

    def deferred(name, entry):
        return dataclasses.replace(entry, numbers=Deferred(entry.layout, lambda: computed.append(name) or entry.grid))

    made.weights = {name: deferred(name, entry) for name, entry in made.weights.items()}
    exporter = DequantizedExporter()
    exporter.takes(made)
    exporter.weight_bytes(made)
    assert computed == []
    exporter.write(made, tmp_path / "out")
    assert computed == list(made.weights)


@pytest.mark.parametrize("weights", [
    {"strategy": "tensor"}, {"strategy": "channel"}, {"strategy": "group", "group_size": 32, "symmetric": False},
], ids=lambda weights: weights["strategy"])  # fmt: skip
def test_a_large_weight_is_written_in_blocks_of_rows_with_the_same_bytes(tmp_path, monkeypatch, weights):
    """No more of a weight is there as floats than 8 rows of 64 columns."""
    model, scheme = random_llama(), Scheme({"all": {"targets": ["Linear"], "weights": {"num_bits": 4, **weights}}})
    prepare(model, scheme)
    made = QuantizedCheckpoint.freeze(model, scheme)
    exporter = DequantizedExporter(dtype="float32")
    exporter.write(made, tmp_path / "whole")
    computed, value = [], Grid.value
    monkeypatch.setattr(Grid, "value", lambda grid: computed.append(value(grid)) or computed[-1])
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 64 * 4)
    exporter.write(made, tmp_path / "blocks")
    computed = [tensor for tensor in computed if not tensor.is_meta]
    assert max(tensor.nbytes for tensor in computed) == 8 * 64 * 4
    assert sum(tensor.numel() for tensor in computed) == sum(e.grid.codes.numel() for e in made.weights.values())
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "blocks" / path.name).read_bytes()


def test_a_block_that_is_not_exact_refuses_the_whole_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    made = frozen(scale_format="significand_3")
    name = next(iter(made.weights))
    made.weights[name].grid.scale[-1, -1] = 2.0**-40
    with pytest.raises(InputError, match=rf"cannot hold 1 of 20 tensors exactly .*{name}.weight holds"):
        DequantizedExporter().write(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ignore", [(), ("re:.*c_proj",)], ids=["all quantized", "one float"])
def test_conv1d_is_stored_transposed(tmp_path, ignore):
    config = GPT2Config(vocab_size=100, n_positions=32, n_embd=64, n_layer=1, n_head=2)
    made, exporter = frozen(model=initialise(config, "causal_lm"), ignore=ignore), DequantizedExporter()
    exporter.write(made, tmp_path / "out")
    name = "transformer.h.0.attn.c_attn"
    assert load_file(tmp_path / "out/model.safetensors")[f"{name}.weight"].shape == (64, 192)
    assert parity(made, exporter.read(tmp_path / "out"), False).exact
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), restore(made)(TOKENS).logits)


def test_parity_counts_differing_values_and_missing_modules(tmp_path):
    made, exporter = frozen(), DequantizedExporter()
    exporter.write(made, tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.weight"][0, :3] += 1
    del tensors["model.layers.0.self_attn.k_proj.weight"]
    save_file(tensors, path, metadata=metadata)
    found = parity(made, exporter.read(tmp_path / "out"), False)
    assert found.missing == ("model.layers.0.self_attn.k_proj",)
    assert found.mismatched_codes == 3 + made.weights["model.layers.0.self_attn.k_proj"].grid.codes.numel()


def test_the_dialect_writes_what_4_51_reads(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 32
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    copy_tokenizer(tokenizer)
    (tokenizer / "chat_template.jinja").write_text("{{ messages }}")
    DequantizedExporter(dialect="transformers_4_51", max_shard_size="50KB").write(
        frozen(rope_parameters=rope), tmp_path / "out", tokenizer
    )
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["rope_theta"] == rope.pop("rope_theta")
    assert config["rope_scaling"] == rope
    assert config["torch_dtype"] == "float16"
    assert not {"rope_parameters", "dtype", "quantization_config"} & config.keys()
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = {path.name: load_file(path) for path in (tmp_path / "out").glob("*.safetensors")}
    assert len(files) > 1
    assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
    assert index["metadata"] == {"total_size": sum(t.nbytes for ts in files.values() for t in ts.values())}
    values = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert values["chat_template"] == "{{ messages }}"
    assert not (tmp_path / "out/chat_template.jinja").exists()


def test_a_single_file_has_an_index_too(tmp_path):
    DequantizedExporter(dialect="transformers_4_51").write(frozen(), tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model.safetensors"}


def test_what_the_dialect_cannot_say_is_refused_before_training():
    made = frozen()
    made.config["model_type"] = "gemma3_text"
    DequantizedExporter().takes(made)
    with pytest.raises(InputError, match="not for model_type 'gemma3_text'"):
        DequantizedExporter(dialect="transformers_4_51").takes(made)


def test_an_unreadable_shard_size_is_refused():
    with pytest.raises(InputError, match="max_shard_size '5 gigs' is no size"):
        DequantizedExporter(max_shard_size="5 gigs")


@pytest.mark.parametrize(("name", "first"), [("bfloat16", "bfloat16"), ("float32", "float16"), ("float16", "float16")])
def test_of_two_types_that_hold_everything_the_models_own_is_taken(tmp_path, name, first):
    """4-bit codes (3 magnitude bits) times powers of two fit both types, and so does a rest of ones."""
    made = frozen(scale_format="significand_1")
    made.rest = {name: torch.ones_like(tensor, dtype=torch.float32) for name, tensor in made.rest.items()}
    made.config["dtype"] = name
    DequantizedExporter().write(made, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == first


def test_an_inexact_weight_and_an_inexact_rest_have_their_own_remedies(tmp_path):
    made = frozen(scale_format="significand_3")
    name = next(iter(made.weights))
    made.weights[name].grid.scale[0, 0] = 2.0**-40
    with pytest.raises(InputError, match=rf"cannot hold 1 of 20 tensors exactly .*{name}.weight holds") as weight:
        DequantizedExporter().write(made, tmp_path / "out")
    assert "scale_format=lossless_fp16" in str(weight.value)
    assert "rest_dtype" not in str(weight.value)
    made.rest["model.norm.weight"] = torch.full((64,), 2.0**-40)
    with pytest.raises(InputError, match=r"hold 2 of 20 tensors.*lossless_fp16 and quantize with rest_dtype=float"):
        DequantizedExporter().write(made, tmp_path / "out")
    made = frozen(scale_format="significand_3")
    made.rest["model.norm.weight"] = torch.full((64,), 2.0**-40)
    with pytest.raises(InputError, match=r"1 of 20 tensors.*; quantize with rest_dtype=float16, or set ") as rest:
        DequantizedExporter().write(made, tmp_path / "out")
    assert "scale_format" not in str(rest.value)


def test_the_widest_values_decide_and_both_types_are_tried(tmp_path):
    """Scales of 5 bits: 4-bit codes need 8 bits, which bfloat16 has, 6-bit codes 10, which only float16 has."""
    four, six = ({"num_bits": bits, "strategy": "channel"} for bits in (4, 6))
    groups = {part: {"targets": [f"re:.*{part}.*"], "weights": args} for part, args in (("attn", six), ("mlp", four))}
    model, scheme = random_llama(), Scheme(groups, scale_format="significand_5")
    prepare(model, scheme)
    made, exporter = QuantizedCheckpoint.freeze(model, scheme), DequantizedExporter()
    made.rest = {name: torch.ones_like(tensor) for name, tensor in made.rest.items()}
    made.config["dtype"] = "bfloat16"
    exporter.takes(made)
    exporter.write(made, tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()} == {torch.float16}


def test_the_rounding_of_activations_is_not_in_the_files():
    assert not DequantizedExporter.holds_activations


def test_files_of_another_format_are_named(tmp_path):
    save_file({"a.weight": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="was not written by the format dequantized; export again"):
        DequantizedExporter().read(tmp_path)


@pytest.mark.parametrize("option", [{"dtype": "float61"}, {"dialect": "transformers_4"}])
def test_unknown_options_are_refused(option):
    with pytest.raises(InputError, match="is not one of"):
        DequantizedExporter(**option)
