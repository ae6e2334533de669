"""llama.cpp itself, where its environment is set up: it must compute with the integers that were trained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support import copy_tokenizer, random_llama
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.llama_cpp import LlamaCppEngine
from qat.export.gguf import GgufExporter
from qat.models.conv1d import to_linear
from qat.models.tokenizer import load_tokenizer
from qat.paths import assets_dir
from qat.prepare import prepare
from qat.restore import restore
from qat.scheme import Scheme

pytestmark = pytest.mark.slow


@pytest.fixture
def llama_cpp() -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(threads=1, context=128)
    if (reason := engine.missing()) is not None:
        pytest.skip(f"llama.cpp is {reason}")
    with engine:
        yield engine


def q8_0(x: Tensor) -> Tensor:
    """llama.cpp's rounding of the input of a quantized matrix: ``quantize_row_q8_0`` of ggml."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scale == 0, 0.0, torch.round(blocks / scale))
    return (codes * scale.half().float()).reshape(x.shape)


class TableGelu(nn.Module):
    """llama.cpp's GELU: a table of F16 from F16 (``GGML_GELU_FP16``)."""

    def forward(self, x: Tensor) -> Tensor:
        table = nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, table))


def frozen(model: nn.Module, bits: int, target: str) -> QuantizedCheckpoint:
    weights = {"num_bits": bits, "strategy": "channel"}
    scheme = Scheme({"all": {"targets": [target], "weights": weights}})
    to_linear(model)
    prepare(model, scheme)
    return QuantizedCheckpoint.freeze(model, scheme)


def assert_only_the_input_is_rounded(engine: LlamaCppEngine, checkpoint: QuantizedCheckpoint, tokens: Tensor) -> None:
    """One module is quantized, so that no difference is amplified: what remains is the rounding of its input."""
    (name,) = checkpoint.weights
    model, found = restore(checkpoint), engine.logits(tokens)
    for path, module in [*model.named_modules()]:
        if type(module).__name__ in ("GELUTanh", "NewGELUActivation"):
            model.set_submodule(path, TableGelu())
    with torch.no_grad():
        exact = model(tokens).logits
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: (q8_0(inputs[0]),))
        rounded = model(tokens).logits
    assert (exact - rounded).abs().max() > 0
    assert (found - rounded).abs().mean() < 0.02 * (exact - rounded).abs().mean()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("part", ["mlp.down_proj", "self_attn.q_proj", "self_attn.o_proj"])
def test_llama_cpp_computes_with_the_trained_integers(llama_cpp, tmp_path, tokens, bits, part):
    made = frozen(random_llama(initializer_range=0.2), bits, f"model.layers.1.{part}")
    GgufExporter(rest="f32", tokenizer=False).write(made, tmp_path / "gguf")
    llama_cpp.load(tmp_path / "gguf")
    assert_only_the_input_is_rounded(llama_cpp, made, tokens)


SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
HEADS = {"vocab_size": 100, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
OTHERS = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL, **HEADS), "model.layers.1.mlp.down_proj"),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SMALL, **HEADS, query_pre_attn_scalar=32, sliding_window=8),
        "model.layers.1.mlp.down_proj",
    ),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2),
        "transformer.h.1.mlp.c_fc",
    ),
}


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_computed_as_transformers_computes_them(llama_cpp, tmp_path, tokens, family):
    kind, config, target = OTHERS[family]
    torch.manual_seed(0)
    made = frozen(kind(config).eval(), 8, target)
    GgufExporter(rest="f32", tokenizer=False).write(made, tmp_path / "gguf")
    llama_cpp.load(tmp_path / "gguf")
    assert_only_the_input_is_rounded(llama_cpp, made, tokens)


def test_token_ids_and_greedy_text_of_the_embedded_model(llama_cpp, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    copy_tokenizer(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(assets_dir() / "tiny_llama")
    text = "def main(argv):\n    print('1234', \"naïve\")  # 🚀\n<|endoftext|>"
    tokens = torch.tensor([tokenizer.encode(text)])
    trained = AutoModelForCausalLM.from_pretrained(assets_dir() / "tiny_llama", dtype=torch.float32)
    made = frozen(trained, 4, "model.layers.0.mlp.up_proj")
    GgufExporter(rest="f32").write(made, tmp_path / "gguf", tmp_path / "tokenizer")
    llama_cpp.load(tmp_path / "gguf")
    assert llama_cpp.tokenize(text) == llama_cpp.tokenize(text, special=True) == tokens[0].tolist()
    expected = restore(made).generate(tokens, max_new_tokens=10, do_sample=False)[0, tokens.shape[1] :].tolist()
    greedy = llama_cpp.continue_greedily(tokens[0].tolist(), 10)
    assert greedy == expected[: len(greedy)]
    assert llama_cpp.logits(tokens).shape == (1, tokens.shape[1], 1024)
