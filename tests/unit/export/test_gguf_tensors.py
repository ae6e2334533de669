"""Which tensors a GGUF file holds: names, row order, types and pieces."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from support import random_llama
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM, Qwen2Config

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.evaluate.parity import parity
from qat.export.gguf import modules, tensors
from qat.export.gguf.exporter import FILE, GgufExporter
from qat.export.gguf.tensors import Names, always_f32, plan, rest_names
from qat.prepare import prepare
from qat.scheme import Scheme

GROUP = {"num_bits": 4, "strategy": "group", "group_size": 32}


def frozen(model: nn.Module | None = None, ignore: tuple[str, ...] = ()) -> QuantizedCheckpoint:
    model = random_llama() if model is None else model
    scheme = Scheme({"all": {"targets": ["Linear"], "weights": GROUP}}, list(ignore))
    prepare(model, scheme)
    return QuantizedCheckpoint.freeze(model, scheme)


def written(made: QuantizedCheckpoint, directory: Path) -> dict[str, Tensor]:
    """The values of every tensor of the file, by gguf's own reader."""
    GgufExporter(tokenizer=False).write(made, directory)
    found = GGUFReader(directory / FILE).tensors
    return {tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()) for tensor in found}


def permuted(weight: Tensor, heads: int) -> Tensor:
    """conversion/llama.py, LlamaModel.permute."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def test_rows_of_a_q_and_k_that_stayed_float_are_turned_too(tmp_path):
    made = frozen(random_llama(attention_bias=True), ["re:.*[qkv]_proj"])
    for part in "qk":
        bias = made.rest[f"model.layers.1.self_attn.{part}_proj.bias"]
        bias.copy_(torch.arange(len(bias)))  # a fresh one is all zeros
    found = written(made, tmp_path / "out")
    for part, heads in (("q", 4), ("k", 2)):
        for kind in ("weight", "bias"):
            own = made.rest[f"model.layers.1.self_attn.{part}_proj.{kind}"]
            assert torch.equal(found[f"blk.1.attn_{part}.{kind}"], permuted(own, heads)), (part, kind)
    assert torch.equal(found["blk.1.attn_v.weight"], made.rest["model.layers.1.self_attn.v_proj.weight"])


def test_only_the_heads_of_llamas_graph_are_turned():
    llama = Names(json.loads(random_llama().config.to_json_string()))
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"]
    assert [llama.interleaved_heads(name) for name in names] == [4, 2, None, None]
    assert llama.interleaved_heads("lm_head") is None
    qwen2 = Names(json.loads(Qwen2Config().to_json_string()))
    assert [qwen2.interleaved_heads(name) for name in names] == [None] * 4


def test_the_offset_of_gemmas_norms_is_added_to_nothing_else(tmp_path):
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 32, "vocab_size": 50}
    made = frozen(GemmaForCausalLM(GemmaConfig(num_attention_heads=2, num_key_value_heads=1, **fields)))
    found = written(made, tmp_path / "out")
    norms = {"blk.0.attn_norm": "model.layers.0.input_layernorm", "output_norm": "model.norm"}
    norms["blk.0.ffn_norm"] = "model.layers.0.post_attention_layernorm"
    for name, own in norms.items():
        assert torch.equal(found[f"{name}.weight"], made.rest[f"{own}.weight"] + 1)
    assert torch.equal(found["token_embd.weight"], made.rest["model.embed_tokens.weight"])


def test_scaled_frequencies_are_a_tensor_of_the_file(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    made = frozen(random_llama(rope_parameters=rope | {"original_max_position_embeddings": 32}))
    factors = written(made, tmp_path / "out")["rope_freqs.weight"]
    # Turns of the 8 pairs over 32 tokens: 32 / (2 pi 10 ** (i / 2)) = 5.09, 1.61, 0.509, ...: kept, between, by 8.
    between = 1 / ((1 - (1.6105 - 1) / 3) / 8 + (1.6105 - 1) / 3)
    torch.testing.assert_close(factors, torch.tensor([1.0, between, *[8.0] * 6]), rtol=1e-4, atol=0)
    assert "rope_freqs.weight" not in written(frozen(), tmp_path / "plain")


def test_masks_and_frequencies_of_old_files_are_left_out_and_biases_are_not():
    left_out = ["h.0.attn.bias", "h.0.attn.masked_bias", "layers.0.self_attn.rotary_emb.inv_freq"]
    kept = ["h.0.attn.c_attn.bias", "layers.0.self_attn.q_proj.bias", "model.norm.weight"]
    assert rest_names(SimpleNamespace(rest=dict.fromkeys([*left_out, *kept]))) == kept


@pytest.mark.parametrize(
    ("name", "dimensions", "expected"),
    [
        ("blk.0.attn_q.bias", 1, True),
        ("blk.0.attn_norm.weight", 2, True),
        ("position_embd.weight", 2, True),
        ("token_embd.weight", 2, False),
        ("blk.0.attn_q.weight", 2, False),
    ],
)
def test_what_llama_cpp_takes_in_float32_only(name, dimensions, expected):
    assert always_f32(name, dimensions) is expected


def test_tensors_outside_the_blocks_come_first_and_blocks_in_their_order():
    names = [placed.name for placed in plan(frozen(random_llama(num_hidden_layers=11, hidden_size=64)), "f16")]
    assert names[:2] == ["output_norm.weight", "token_embd.weight"]
    assert [int(name.split(".")[1]) for name in names[2:]] == [block for block in range(11) for _ in range(9)]


def test_numbers_that_no_type_holds_are_refused():
    made = frozen()
    made.rest["model.embed_tokens.weight"] = torch.full((100, 64), 1 + 2.0**-40, dtype=torch.float64)
    with pytest.raises(InputError, match=r"dtype torch\.float64 fits no GGUF type"):
        plan(made, "f16")


@pytest.mark.parametrize("piece", [1, 64 * 3])
def test_borders_of_the_pieces_do_not_show(tmp_path, monkeypatch, piece):
    made = frozen()
    written(made, tmp_path / "whole")
    monkeypatch.setattr(tensors, "_PIECE", piece)
    monkeypatch.setattr(modules, "_PIECE", piece)
    written(made, tmp_path / "pieces")
    assert (tmp_path / "pieces" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert parity(made, GgufExporter().read(tmp_path / "pieces")).exact
