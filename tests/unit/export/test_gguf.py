from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
from gguf.quants import dequantize
from support import copy_tokenizer, random_llama
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.compose import component
from qat.errors import InputError, RunError, is_disk_full
from qat.evaluate.parity import Parity, parity
from qat.export.gguf.exporter import FILE, GgufExporter
from qat.export.gguf.modules import module_table
from qat.export.gguf.tensors import plan, row_order
from qat.grid import Grid
from qat.models.conv1d import to_linear
from qat.prepare import prepare
from qat.quantized import Deferred
from qat.scheme import Scheme, preset


def scheme(bits: int = 4, strategy: str = "channel", group: int | None = None, **more) -> Scheme:
    weights = {"num_bits": bits, "strategy": strategy, "group_size": group, "symmetric": more.pop("symmetric", True)}
    inputs = more.pop("inputs", None)
    entry = {"targets": more.pop("targets", ["Linear"]), "weights": weights, "input_activations": inputs}
    return Scheme({"all": entry}, **more)


def frozen(given: Scheme, model: torch.nn.Module | None = None) -> QuantizedCheckpoint:
    model = random_llama() if model is None else model
    to_linear(model)
    prepare(model, given)
    return QuantizedCheckpoint.freeze(model, given)


def written(checkpoint: QuantizedCheckpoint, directory: Path, **options) -> GgufExporter:
    exporter = GgufExporter(**({"tokenizer": False} | options))
    exporter.takes(checkpoint)
    directory.mkdir(exist_ok=True)
    exporter.write_files(checkpoint, directory)
    return exporter


def deferred(checkpoint: QuantizedCheckpoint, taken: list[str]) -> QuantizedCheckpoint:
    """The same, with numbers that are made when they are asked for, which ``taken`` lists."""

    def make(name: str, grid: Grid) -> Grid:
        taken.append(name)
        return grid

    weights = {
        name: replace(entry, numbers=Deferred(entry.layout, partial(make, name, entry.grid)))
        for name, entry in checkpoint.weights.items()
    }
    return replace(checkpoint, weights=weights)


def tensors(directory: Path) -> dict:
    return {tensor.name: tensor for tensor in GGUFReader(directory / FILE).tensors}


def values(tensor) -> torch.Tensor:
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())


@pytest.mark.parametrize("scale_format", ["bf16", "fp16", "lossless_fp16", "lossless_bf16", "significand_3"])
@pytest.mark.parametrize("strategy", [("tensor", None), ("channel", None), ("group", 32), ("group", 64)])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_read_back_is_the_checkpoint(tmp_path, bits, strategy, scale_format):
    if (bits, scale_format) == (8, "lossless_bf16"):
        scale_format = "bf16"
    made = frozen(scheme(bits, *strategy, scale_format=scale_format))
    exporter = written(made, tmp_path)
    assert parity(made, exporter.read(tmp_path)) == Parity(len(made.weights), 0, 0, 0)


@pytest.mark.parametrize(("bits", "kind"), [(2, "Q4_0"), (3, "Q4_0"), (5, "Q8_0"), (6, "Q8_0"), (7, "Q8_0")])
def test_other_widths_lie_in_the_next_wider_block(tmp_path, bits, kind):
    made = frozen(scheme(bits, "group", 32))
    exporter = written(made, tmp_path)
    assert parity(made, exporter.read(tmp_path)).exact
    assert tensors(tmp_path)["blk.0.ffn_up.weight"].tensor_type == GGMLQuantizationType[kind]


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head_are_quantized_once_or_twice(tmp_path, tied):
    model = random_llama(tie_word_embeddings=tied)
    made = frozen(scheme(targets=["Linear", "Embedding", "lm_head"]), model)
    exporter = written(made, tmp_path)
    assert parity(made, exporter.read(tmp_path)).exact
    q4_0 = {name for name, tensor in tensors(tmp_path).items() if tensor.tensor_type == GGMLQuantizationType.Q4_0}
    assert "token_embd.weight" in q4_0
    assert ("output.weight" in q4_0) is not tied


def test_rows_of_q_and_k_are_those_that_llama_cpps_converter_writes(tmp_path):
    made = frozen(scheme(group=32, strategy="group"))
    written(made, tmp_path)
    found = tensors(tmp_path)
    for part, heads in (("q", 4), ("k", 2)):
        value = made.weights[f"model.layers.1.self_attn.{part}_proj"].grid.value()
        rows = len(value)  # conversion/llama.py, LlamaModel.permute
        expected = value.reshape(heads, 2, rows // heads // 2, 64).swapaxes(1, 2).reshape(value.shape)
        assert torch.equal(values(found[f"blk.1.attn_{part}.weight"]), expected)
    value = made.weights["model.layers.1.self_attn.v_proj"].grid.value()
    assert torch.equal(values(found["blk.1.attn_v.weight"]), value)


def test_row_order_puts_the_halves_of_a_head_in_turns():
    order = row_order(8, 2)
    assert order is not None
    assert order.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_gpt2s_conv1d_is_written_out_by_in(tmp_path):
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    made = frozen(scheme(8), GPT2LMHeadModel(config))
    exporter = written(made, tmp_path)
    assert parity(made, exporter.read(tmp_path)).exact
    found = tensors(tmp_path)
    assert torch.equal(values(found["blk.0.attn_qkv.weight"]), made.weights["transformer.h.0.attn.c_attn"].grid.value())
    assert found["position_embd.weight"].tensor_type == GGMLQuantizationType.F32


def test_gemmas_norms_hold_one_more(tmp_path):
    fields = {"hidden_size": 32, "head_dim": 32, "query_pre_attn_scalar": 32, "num_attention_heads": 2}
    config = Gemma3TextConfig(
        vocab_size=64, intermediate_size=32, num_hidden_layers=6, num_key_value_heads=1, sliding_window=8, **fields
    )
    made = frozen(scheme(), Gemma3ForCausalLM(config))
    written(made, tmp_path)
    norm = values(tensors(tmp_path)["blk.0.attn_norm.weight"])
    assert torch.equal(norm, made.rest["model.layers.0.input_layernorm.weight"] + 1)
    pattern = GGUFReader(tmp_path / FILE).get_field("gemma3.attention.sliding_window_pattern")
    assert pattern is not None
    assert pattern.contents() == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("value", "kind"), [(0.5, "F16"), (1.0 + 2.0**-7, "F16"), (2.0**-30, "BF16"), (2.0**-30 * (1 + 2.0**-20), "F32")]
)
def test_an_unquantized_matrix_gets_the_smallest_exact_type(tmp_path, value, kind):
    made = frozen(scheme())
    made.rest["model.embed_tokens.weight"].fill_(value)
    written(made, tmp_path)
    embedding = tensors(tmp_path)["token_embd.weight"]
    assert embedding.tensor_type == GGMLQuantizationType[kind]
    assert torch.equal(values(embedding), made.rest["model.embed_tokens.weight"])


def test_rest_f32_makes_every_unquantized_tensor_f32(tmp_path):
    written(frozen(scheme()), tmp_path, rest="f32")
    kinds = {tensor.tensor_type.name for tensor in tensors(tmp_path).values()}
    assert kinds == {"Q4_0", "F32"}


def test_weight_bytes_are_those_of_the_tensors(tmp_path):
    made = frozen(scheme())
    exporter = written(made, tmp_path)
    assert exporter.weight_bytes(made) == sum(tensor.n_bytes for tensor in tensors(tmp_path).values())


def test_numbers_are_asked_for_once_and_only_to_write_them(tmp_path):
    taken: list[str] = []
    made = deferred(frozen(scheme()), taken)
    exporter = GgufExporter(tokenizer=False)
    exporter.takes(made)
    exporter.weight_bytes(made)
    assert not taken
    exporter.write_files(made, tmp_path)
    assert sorted(taken) == sorted(made.weights)
    read = exporter.read(tmp_path)
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    assert not parity(made, read).exact, "a module is read when it is asked for"


def test_a_file_that_does_not_read_back_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("qat.export.gguf.writing.sha256", lambda path: "0" * 64)
    with pytest.raises(RunError, match=r"model\.gguf does not read back as it was written"):
        written(frozen(scheme()), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_as_such(tmp_path):
    (tensor, *_) = plan(frozen(scheme()), "f16")
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as caught:
        tensor.tofile(file)
    assert is_disk_full(caught.value)


def test_without_the_library_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("qat.export.gguf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"pip install '\.\[gguf\]'"):
        instantiate(component("export", "gguf"), "export.gguf")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (scheme(4, symmetric=False), "asymmetric"),
        (scheme(4, "group", 16), "groups have 16 codes"),
        (scheme(4, scale_format="fp32"), "scale_format=fp16"),
        (scheme(8, inputs={"num_bits": 8, "strategy": "token", "dynamic": True}), "llama.cpp rounds by itself"),
    ],
)
def test_other_grids_are_refused_with_the_formats_that_take_them(given, message):
    with pytest.raises(InputError, match=message):
        GgufExporter().takes(frozen(given))


def test_rows_that_blocks_do_not_fill_are_refused():
    with pytest.raises(InputError, match="down_proj: its rows have 172 codes"):
        GgufExporter().takes(frozen(scheme(), random_llama(intermediate_size=172)))


def test_the_engines_own_rounding_of_activations_can_be_accepted(tmp_path):
    made = frozen(preset("w8a8"))
    exporter = written(made, tmp_path, activations="engine")
    assert parity(made, exporter.read(tmp_path), activations=exporter.holds_activations).exact


def test_a_tensor_without_a_place_is_refused():
    made = frozen(scheme())
    made.rest["model.layers.0.extra.weight"] = torch.ones(2, 2)
    with pytest.raises(InputError, match=r"model\.layers\.0\.extra\.weight"):
        GgufExporter().takes(made)


def test_scales_outside_fp16_are_named_with_the_format_that_is_exact(tmp_path):
    model = random_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] *= 1e-5
    made = frozen(scheme(scale_format="bf16"), model)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj \(1 scales.*scale_format=fp16"):
        written(made, tmp_path)


@pytest.mark.parametrize(("count", "rest"), [(3, ""), (4, " and 1 more modules")])
def test_three_modules_with_inexact_scales_are_named_and_the_others_counted(tmp_path, count, rest):
    made = frozen(scheme(scale_format="lossless_bf16"))
    for entry in list(made.weights.values())[:count]:
        entry.grid.scale[0, 0] = 2.0**-40
    last = list(made.weights)[2].replace(".", r"\.")
    message = rf"{last} \(1 scales, smallest 9\.09e-13\){rest}; quantize with scheme\.scale_format=lossless_fp16 "
    with pytest.raises(InputError, match=message):
        written(made, tmp_path)


def test_a_row_of_zeros_is_exact(tmp_path):
    model = random_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = 0
    made = frozen(scheme(scale_format="bf16"), model)
    assert parity(made, written(made, tmp_path).read(tmp_path)).exact


def test_a_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.tokenizer"):
        written(frozen(scheme()), tmp_path, tokenizer=True)


def test_a_tokenizer_that_the_file_cannot_carry_can_be_left_out(tmp_path):
    copy_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"vocabulary ends at 99; .*export\.gguf\.tokenizer=false"):
        written(frozen(scheme()), tmp_path, tokenizer=True)
    assert not (tmp_path / FILE).exists()


def test_the_tokenizer_is_inside(tmp_path):
    copy_tokenizer(tmp_path)
    written(frozen(scheme(), random_llama(vocab_size=1030)), tmp_path, tokenizer=True)
    reader = GGUFReader(tmp_path / FILE)
    field = {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("model", "pre", "tokens")}
    assert (field["model"], field["pre"]) == ("gpt2", "qwen2")
    assert field["tokens"][:2] == ["<|endoftext|>", "!"]
    assert field["tokens"][-6:] == [f"[PAD{index}]" for index in range(1024, 1030)]


def test_a_damaged_file_is_refused(tmp_path):
    exporter = written(frozen(scheme()), tmp_path)
    path = tmp_path / FILE
    data = path.read_bytes()
    for broken in (b"", data[:100], data[:-2000], b"x" + data[1:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="damaged"):
            exporter.read(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        exporter.read(tmp_path)


def test_an_altered_code_is_a_mismatch(tmp_path):
    made = frozen(scheme())
    exporter = written(made, tmp_path)
    tensor = tensors(tmp_path)["blk.0.ffn_up.weight"]
    data = bytearray((tmp_path / FILE).read_bytes())
    data[tensor.data_offset + 2] ^= 0x01
    (tmp_path / FILE).write_bytes(data)
    assert parity(made, exporter.read(tmp_path)).mismatched_codes == 1
    data[tensor.data_offset + 1] ^= 0x01
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(RunError, match="up_proj: blocks of one group"):
        exporter.read(tmp_path)["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("options", [{"rest": "f8"}, {"activations": "drop"}])
def test_options_are_checked(options):
    with pytest.raises(InputError, match="is not one of"):
        GgufExporter(**options)


def test_a_generation_config_that_names_no_stop_token_has_none(tmp_path):
    """As in transformers: the stop token in ``config.json`` counts only where there is no generation config."""
    made = frozen(preset("w4a16_g32"), random_llama(vocab_size=1024, eos_token_id=5))
    copy_tokenizer(tmp_path)
    for generation, more in ((None, [5]), ({"temperature": 0.5}, []), ({"eos_token_id": [7, 9]}, [7, 9])):
        written(replace(made, generation_config=generation), tmp_path, tokenizer=True)
        fields = GGUFReader(tmp_path / FILE).fields
        ends = [fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
        assert [end.contents() for end in ends if end is not None] == [0, *more]  # the tokenizer's own comes first


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('"num_bits": 4', '"num_bits": 8', RunError, "up_proj: its blocks are Q4_0, and its codes have 8 bits"),
        ("blk.0.ffn_up", "blk.7.ffn_up", InputError, r"lacks blk\.7\.ffn_up\.weight; export again"),
    ],
    ids=["bits", "name"],
)
def test_a_table_of_modules_that_does_not_fit_the_tensors_is_an_error(tmp_path, monkeypatch, old, new, error, message):
    assert old in module_table(frozen(scheme()))
    monkeypatch.setattr("qat.export.gguf.exporter.module_table", lambda made: module_table(made).replace(old, new))
    exporter = written(frozen(scheme()), tmp_path)
    with pytest.raises(error, match=message):
        exporter.read(tmp_path)["model.layers.0.mlp.up_proj"]


def test_a_file_of_another_program_is_refused(tmp_path):
    writer = GGUFWriter(tmp_path / FILE, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"has no qat\.modules: it was not exported by qat"):
        GgufExporter().read(tmp_path)


@pytest.mark.parametrize("task", ["masked_lm", "encoder"])
def test_other_tasks_are_refused(task):
    with pytest.raises(InputError, match=f"this is a {task}$"):
        GgufExporter().takes(replace(frozen(scheme()), task=task))


@pytest.mark.parametrize(("bits", "kind"), [(4, LlamaFileType.MOSTLY_Q4_0), (8, LlamaFileType.MOSTLY_Q8_0)])
def test_the_head_of_the_file_names_its_type(tmp_path, bits, kind):
    written(frozen(scheme(bits)), tmp_path)
    reader = GGUFReader(tmp_path / FILE)
    found = {key: reader.fields[f"general.{key}"].contents() for key in ("architecture", "type", "file_type")}
    assert found == {"architecture": "llama", "type": "model", "file_type": int(kind)}
