"""Streaming block by block against the same algorithm on the model in memory: every bit of the two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import copy_tokenizer, random_llama
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.models import hf
from qat.models.blocks import transformer_blocks
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq import blockwise
from qat.ptq.gptq import GPTQ
from qat.ptq.memory import Memory, OnDisk
from qat.ptq.store import BlockStore
from qat.ptq.stream_blocks import BlockStream
from qat.scheme import Scheme, preset

CHANNEL = {"num_bits": 4, "strategy": "channel"}
ENDS = Scheme(
    {
        "body": {"targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "group", "group_size": 32}},
        "ends": {"targets": ["Embedding", "lm_head"], "weights": CHANNEL},
    },
    scale_format="lossless_fp16",
)
BODY = Scheme({"all": {"targets": ["Linear"], "weights": CHANNEL}})


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=16))


def bert() -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16,
        )
    )  # fmt: skip


def gemma() -> PreTrainedModel:
    config = Gemma3TextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=4, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """Random weights everywhere: norms and biases that are ones and zeros would hide a mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="40KB")
    copy_tokenizer(folder)
    return folder


def batches() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    return [{"input_ids": torch.randint(96, (2, 12), generator=generator)} for _ in range(2)]


def in_memory(folder: Path, scheme: Scheme, algorithm: GPTQ) -> QuantizedCheckpoint:
    loaded = hf.load(str(folder))
    prepare(loaded.model, scheme, observer=MinMax())
    algorithm.run(loaded.model, batches())
    return QuantizedCheckpoint.freeze(loaded.model, scheme, loaded.task, torch.bfloat16)


def assert_same(streamed: QuantizedCheckpoint, frozen: QuantizedCheckpoint) -> None:
    assert list(streamed.weights) == list(frozen.weights)
    for name, entry in frozen.weights.items():
        ours, theirs = streamed.weights[name].grid, entry.grid
        assert torch.equal(ours.codes, theirs.codes) and torch.equal(ours.scale, theirs.scale), name
        assert (ours.zero_point is None) == (theirs.zero_point is None)
        assert theirs.zero_point is None or torch.equal(ours.zero_point, theirs.zero_point), name
    assert list(streamed.rest) == list(frozen.rest)
    for name, tensor in frozen.rest.items():
        assert streamed.rest[name].dtype == tensor.dtype and torch.equal(streamed.rest[name], tensor), name
    for what in ("scheme", "config", "task", "tied", "conv1d", "generation_config", "nbytes"):
        assert getattr(streamed, what) == getattr(frozen, what), what


@pytest.mark.parametrize(
    ("make", "scheme"),
    [
        (random_llama, ENDS),
        (random_llama, preset("w4a8_channel")),
        (lambda: random_llama(tie_word_embeddings=False), preset("w4a16_g32_asym")),
        (gpt2, BODY),
        (bert, BODY),
        (gemma, BODY),
    ],
    ids=["llama-ends", "llama-dynamic", "llama-untied-asym", "gpt2", "bert", "gemma3"],
)
@pytest.mark.parametrize("order", ["columns", "activations"])
def test_the_bits_are_those_of_the_model_in_memory(make: Any, scheme: Scheme, order: Any, tmp_path: Path) -> None:
    folder, algorithm = saved(make(), tmp_path / "model"), GPTQ(MSE(), order=order)
    stream = BlockStream.open(folder, scheme, algorithm, torch.bfloat16)
    stream.quantize(batches(), BlockStore(tmp_path / "blocks"))
    assert_same(stream.checkpoint, in_memory(folder, scheme, algorithm))


def test_one_block_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(random_llama(num_hidden_layers=3), tmp_path / "model")
    models: list[PreTrainedModel] = []
    run_blocks = blockwise.run_blocks

    def noting(algorithm: Any, model: PreTrainedModel, *rest: Any) -> None:
        models.append(model)
        run_blocks(algorithm, model, *rest)

    class Watching(GPTQ):
        def quantize_block(self, block: Any) -> None:
            real = {name for name, parameter in models[0].named_parameters() if not parameter.is_meta}
            assert real == {f"{block.name}.{name}" for name, _ in block.module.named_parameters()}
            super().quantize_block(block)

    monkeypatch.setattr("qat.ptq.stream_blocks.run_blocks", noting)
    stream = BlockStream.open(folder, BODY, Watching(MinMax()), torch.bfloat16)
    stream.quantize(batches(), BlockStore(tmp_path / "blocks"))
    assert all(parameter.is_meta for parameter in models[0].parameters())
    assert all(tensor.is_meta for tensor in stream.skeleton.model.state_dict().values())


def test_a_stopped_stream_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, algorithm = saved(random_llama(), tmp_path / "model"), GPTQ(MinMax())
    store, done = BlockStore(tmp_path / "blocks"), []
    quantize_block = GPTQ.quantize_block

    def once(self: GPTQ, block: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(block.name)
        quantize_block(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(GPTQ, "quantize_block", once)
        stream = BlockStream.open(folder, BODY, algorithm, torch.bfloat16)
        with pytest.raises(KeyboardInterrupt):
            stream.quantize(batches(), store)
    stream = BlockStream.open(folder, BODY, algorithm, torch.bfloat16)
    stream.quantize(batches(), store)
    assert_same(stream.checkpoint, in_memory(folder, BODY, algorithm))
    monkeypatch.setattr(Memory, "at_work", None)
    again = BlockStream.open(folder, BODY, algorithm, torch.bfloat16)
    again.quantize(batches(), BlockStore(tmp_path / "blocks"))  # nothing is computed, nothing needs to be in memory
    assert_same(again.checkpoint, stream.checkpoint)


def test_buffers_that_no_file_has_are_those_of_a_loaded_model(tmp_path: Path) -> None:
    folder = saved(gemma(), tmp_path / "model")
    stream = BlockStream.open(folder, BODY, GPTQ(MinMax()))
    loaded = hf.load(str(folder)).model
    rotary, embedding = stream.skeleton.model.model.rotary_emb, stream.skeleton.model.model.embed_tokens
    parts = [("model.rotary_emb", rotary), ("model.embed_tokens", embedding)]
    with OnDisk(stream.skeleton).at_work(parts, torch.device("cpu")):
        for name, module in parts:
            expected = dict(loaded.get_submodule(name).named_buffers())
            assert expected and {key: buffer.tolist() for key, buffer in module.named_buffers()} == {
                key: buffer.tolist() for key, buffer in expected.items()
            }
        assert torch.equal(embedding.weight, loaded.get_submodule("model.embed_tokens").weight)


def test_static_activations_are_refused(tmp_path: Path) -> None:
    folder = saved(random_llama(), tmp_path / "model")
    with pytest.raises(InputError, match="static activations, keys and values included, get their range from data"):
        BlockStream.open(folder, preset("w8a8_static"), GPTQ(MinMax()))


def test_numbers_are_not_there_before_the_blocks_are_quantized(tmp_path: Path) -> None:
    stream = BlockStream.open(saved(random_llama(), tmp_path / "model"), BODY, GPTQ(MinMax()))
    name = next(iter(transformer_blocks(stream.skeleton.model)))
    with pytest.raises(RunError, match=f"{name}.self_attn.q_proj cannot be read before its block is quantized"):
        _ = stream.checkpoint.weights[f"{name}.self_attn.q_proj"].grid
