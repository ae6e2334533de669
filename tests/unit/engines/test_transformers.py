from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import VOCABULARY, random_llama
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.evaluate.parity import max_logit_difference, parity
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.dequantized import DequantizedExporter
from qat.hosts import kv_caches
from qat.models.build import quiet
from qat.models.conv1d import to_linear
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.restore import restore
from qat.scheme import Scheme, preset

TOKENS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(0))
DYNAMIC = {"num_bits": 8, "strategy": "token", "dynamic": True}


def llama(tied: bool = False) -> LlamaForCausalLM:
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    return random_llama(intermediate_size=96, tie_word_embeddings=tied, dtype="float32", rope_parameters=rope)


def weights(bits: int, strategy: str = "channel", symmetric: bool = True) -> dict:
    size = 32 if strategy == "group" else None
    return {"num_bits": bits, "strategy": strategy, "group_size": size, "symmetric": symmetric}


def one(targets: list[str], args: dict, inputs: dict | None = None, scale_format: str = "bf16") -> Scheme:
    group = {"targets": targets, "weights": args, "input_activations": inputs}
    return Scheme({"all": group}, scale_format=scale_format)


def frozen(scheme: Scheme, tied: bool = False) -> QuantizedCheckpoint:
    model = llama(tied)
    prepare(model, scheme)
    return QuantizedCheckpoint.freeze(model, scheme)


def dequantized(checkpoint: QuantizedCheckpoint, tied: bool = False) -> LlamaForCausalLM:
    """A float Llama with ``(code - zero_point) * scale`` as its weights: what a weight-only export means."""
    model = llama(tied)
    with torch.no_grad():
        for name, entry in checkpoint.weights.items():
            model.get_submodule(name).weight.copy_(entry.grid.value())
    return model


def exported(checkpoint: QuantizedCheckpoint, directory: Path) -> Path:
    exporter = CompressedTensorsExporter()
    exporter.write(checkpoint, directory)
    assert parity(checkpoint, exporter.read(directory), caches=exporter.read_kv_cache(directory)).exact
    return directory


def loaded(directory: Path) -> TransformersEngine:
    engine = TransformersEngine()
    engine.load(directory)
    return engine


MIXED_ZERO_POINTS = Scheme(
    {
        "attention": {"targets": ["re:.*self_attn.*"], "weights": weights(2, "group", False)},
        "other": {"targets": ["Linear"], "weights": weights(4)},
    }
)
WEIGHT_ONLY = {
    "w4a16_g32": (preset("w4a16_g32"), "from_pretrained"),
    "w3a16_g32": (preset("w3a16_g32"), "from_pretrained"),
    "w2a16_g32": (preset("w2a16_g32"), "from_pretrained"),
    "w8a16": (preset("w8a16"), "from_pretrained"),
    "w4a16_g32_asym": (preset("w4a16_g32_asym"), "assembled"),
    "w3 tensor asym": (one(["Linear"], weights(3, "tensor", False)), "from_pretrained"),
    "mixed zero points": (MIXED_ZERO_POINTS, "assembled"),
    "embedding": (one(["Linear", "Embedding"], weights(4)), "assembled"),
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_weight_only_exports_are_the_dequantized_float_model(tmp_path, name, tied):
    scheme, how = WEIGHT_ONLY[name]
    checkpoint = frozen(scheme, tied)
    engine = loaded(exported(checkpoint, tmp_path / "out"))
    assert f"({how}, float32)" in engine.description
    assert max_logit_difference(engine.logits, dequantized(checkpoint, tied), TOKENS) == 0.0
    assert max_logit_difference(engine.logits, llama(tied), TOKENS) > 1e-3  # it is not simply the float model
    for module, entry in checkpoint.weights.items():
        assert torch.equal(engine.weight(module), entry.grid.value())
    assert (engine.model.lm_head.weight is engine.model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("name", ["w8a8", "w4a8_g32"])
def test_dynamic_activations_are_rounded_by_the_engine(tmp_path, name):
    checkpoint = frozen(preset(name))
    engine = loaded(exported(checkpoint, tmp_path / "out"))
    assert "from_pretrained" in engine.description
    assert max_logit_difference(engine.logits, dequantized(checkpoint), TOKENS) > 1e-4
    assert max_logit_difference(engine.logits, restore(checkpoint), TOKENS) <= 1e-4


def test_from_a_cache_dynamic_activations_are_rounded_as_by_the_trained_model(tmp_path):
    """Token by token the engine may leave the model's uncached continuation, but not the one from its own cache."""
    checkpoint = frozen(preset("w8a8"))
    engine, model = loaded(exported(checkpoint, tmp_path / "out")), restore(checkpoint)
    for prompt in TOKENS[:, :4]:
        whole = model.generate(input_ids=prompt[None], do_sample=False, max_new_tokens=8, pad_token_id=0)
        assert engine.continue_greedily(prompt.tolist(), 8) == whole[0, 4:].tolist()


@pytest.mark.parametrize("name", ["w4a16_g32_kv8", "w8a8_static_kv8"])
def test_keys_and_values_are_rounded_by_the_engine_as_they_were_in_training(tmp_path, name):
    scheme, model = preset(name), llama()
    prepare(model, scheme)
    calibrate(model, [{"input_ids": TOKENS}], MinMax())
    checkpoint = QuantizedCheckpoint.freeze(model, scheme)
    engine = loaded(exported(checkpoint, tmp_path / "out"))
    assert torch.equal(engine.logits(TOKENS), model(TOKENS).logits), "bit for bit: no bit of a sum is another"
    for cache in kv_caches(model).values():
        cache.key.enabled.zero_()
    assert max_logit_difference(engine.logits, model, TOKENS) > 1e-4, "and rounded they are"
    prompt, ours = TOKENS[0, :8].tolist(), restore(checkpoint)
    out = ours.generate(TOKENS[:1, :8], attention_mask=torch.ones(1, 8), max_new_tokens=8, do_sample=False)
    assert engine.continue_greedily(prompt, 8) == out[0, 8:].tolist()


def test_a_weight_that_transformers_stores_transposed_is_given_as_the_checkpoint_has_it(tmp_path):
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes))
    to_linear(model)
    prepare(model, preset("w4a16_g32"))
    checkpoint = QuantizedCheckpoint.freeze(model, preset("w4a16_g32"))
    DequantizedExporter(dtype="float32").write(checkpoint, tmp_path / "out")
    engine = loaded(tmp_path / "out")
    for name, entry in checkpoint.weights.items():
        assert torch.equal(engine.weight(name), entry.grid.value())


def test_several_groups_find_their_modules(tmp_path):
    scheme = Scheme(
        {
            "attention": {"targets": ["re:.*self_attn.*"], "weights": weights(4, "group")},
            "other": {"targets": ["Linear"], "weights": weights(8), "input_activations": DYNAMIC},
        }
    )
    checkpoint = frozen(scheme)
    engine = loaded(exported(checkpoint, tmp_path / "out"))
    assert "from_pretrained" in engine.description
    assert max_logit_difference(engine.logits, restore(checkpoint), TOKENS) <= 1e-4


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_static_activations_are_rounded_to_the_stored_scale(tmp_path, symmetric):
    inputs = {"num_bits": 8, "strategy": "tensor", "dynamic": False, "symmetric": symmetric}
    checkpoint = frozen(one(["Linear"], weights(8)))
    zero_point = None if symmetric else torch.tensor([5], dtype=torch.int8)
    for name, entry in checkpoint.weights.items():
        scheme = one(["Linear"], weights(8), inputs).config_groups["all"]
        checkpoint.weights[name] = dataclasses.replace(
            entry, scheme=scheme, input_scale=torch.tensor([0.02]), input_zero_point=zero_point
        )
    engine = loaded(exported(checkpoint, tmp_path / "out"))

    reference = dequantized(checkpoint)
    zero = 0 if zero_point is None else int(zero_point)

    def round_input(_: nn.Module, args: tuple) -> tuple:
        return (torch.fake_quantize_per_tensor_affine(args[0], 0.02, zero, -128, 127),)

    for name in checkpoint.weights:
        reference.get_submodule(name).register_forward_pre_hook(round_input)
    assert max_logit_difference(engine.logits, reference, TOKENS) <= 1e-4
    assert max_logit_difference(engine.logits, dequantized(checkpoint), TOKENS) > 1e-4


@pytest.mark.parametrize(
    "scheme",
    [
        one(["Linear"], weights(4, "group", False), scale_format="fp32"),
        one(["Linear", "Embedding"], weights(4), scale_format="fp32"),
    ],
    ids=["zero points", "embedding"],
)
def test_a_plain_from_pretrained_loads_what_the_engine_assembles(tmp_path, scheme):
    """``dequantize`` in ``config.json`` makes the call that every user writes work, tied weights included."""
    checkpoint = frozen(scheme, tied=True)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(exported(checkpoint, tmp_path / "out"), dtype=torch.float32)
    assert max_logit_difference(model, dequantized(checkpoint, tied=True), TOKENS) == 0.0


def test_the_engine_runs_where_its_options_or_else_the_caller_says(tmp_path):
    directory = exported(frozen(preset("w4a16_g32")), tmp_path / "out")
    for engine, given, expected in (
        (TransformersEngine(), (), "cpu"),
        (TransformersEngine(), (torch.device("meta"),), "meta"),
        (TransformersEngine(device="cpu"), (torch.device("meta"),), "cpu"),
    ):
        engine.load(directory, *given)
        assert {parameter.device.type for parameter in engine.model.parameters()} == {expected}


@pytest.mark.parametrize("name", ["w4a16_g32", "w4a16_g32_asym"])
def test_stop_tokens_reach_the_engine(tmp_path, name):
    model = llama()
    model.generation_config.eos_token_id = [7, 9]
    prepare(model, preset(name))
    engine = loaded(exported(QuantizedCheckpoint.freeze(model, preset(name)), tmp_path / "out"))
    assert engine.model.generation_config.eos_token_id == [7, 9]


@pytest.mark.parametrize("name", ["w4a16_g32", "w4a16_g32_asym", "w8a8"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_rest_in_16_bits_is_the_one_that_is_restored(tmp_path, name, tied):
    model = llama(tied)
    prepare(model, preset(name))
    checkpoint = QuantizedCheckpoint.freeze(model, preset(name), rest_dtype=torch.bfloat16)
    directory = exported(checkpoint, tmp_path / "out")
    assert json.loads((directory / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(directory / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert max_logit_difference(loaded(directory).logits, restore(checkpoint), TOKENS) <= 1e-4
    assert max_logit_difference(model, restore(checkpoint), TOKENS) > 1e-4  # the rest was rounded


def test_sharded_exports_load(tmp_path):
    checkpoint = frozen(preset("w4a16_g32"))
    CompressedTensorsExporter(max_shard_size="20KB").write(checkpoint, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert max_logit_difference(loaded(tmp_path / "out").logits, dequantized(checkpoint), TOKENS) == 0.0


def test_loss_and_continuation(tmp_path):
    checkpoint = frozen(preset("w4a16_g32"))
    engine = loaded(exported(checkpoint, tmp_path / "out"))
    blocks = [{"input_ids": row, "labels": row} for row in TOKENS]
    model = dequantized(checkpoint)
    with torch.no_grad():
        expected = model(input_ids=TOKENS, labels=TOKENS).loss.item()
    assert engine.loss(blocks, batch_size=2) == pytest.approx(expected, rel=1e-5)
    prompt = TOKENS[0, :5].tolist()
    ids = list(prompt)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert engine.continue_greedily(prompt, 6) == ids[5:]
    with pytest.raises(InputError, match="do not fit the model's context of 64"):
        engine.continue_greedily(prompt, 60)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="dtype 'fp32'"):
        TransformersEngine(dtype="fp32")
    with pytest.raises(InputError, match="call load"):
        TransformersEngine().logits(TOKENS)
    with pytest.raises(InputError, match="no config.json"):
        loaded(tmp_path)


@pytest.mark.parametrize("name", ["w4a16_g32", "w4a16_g32_asym"])
def test_a_missing_tensor_is_an_error_and_not_a_random_weight(tmp_path, name):
    directory = exported(frozen(preset(name)), tmp_path / "out")
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        loaded(directory)


def test_a_config_of_another_shape_is_an_error(tmp_path):
    directory = exported(frozen(preset("w4a16_g32")), tmp_path / "out")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    with pytest.raises(InputError, match="cannot load"):
        loaded(directory)
