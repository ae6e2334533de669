"""Freeze, save, load, verify and restore: one grid, and a damaged file is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.hosts import apply_state, hosts, kv_caches
from qat.manifest import digest_of, verify
from qat.models import conv1d, tiny_llama
from qat.models.tokenizer import load_tokenizer
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.restore import restore
from qat.schedule import PrecisionState
from qat.scheme import Scheme, preset

CHANNEL4 = {"num_bits": 4, "strategy": "channel"}
MIXED = Scheme(
    {
        "body": {"targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "group", "group_size": 32}},
        "ends": {"targets": ["Embedding", "lm_head"], "weights": CHANNEL4},
    },
    scale_format="lossless_fp16",
)


def frozen(model, scheme: Scheme, tokens: torch.Tensor) -> QuantizedCheckpoint:
    prepare(model, scheme)
    if scheme.has_static_activations:
        calibrate(model, [{"input_ids": tokens}], MinMax())
    return QuantizedCheckpoint.freeze(model, scheme)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "w4a16_g32", "w8a8", "w8a8_static", "w4a8_g32", "w2a16_g32_asym", "mixed", "w2a16_g32_ternary",
        "w4a16_g32_head8", "w4a8_static_channel", "w8a8_kv8", "w8a8_static_kv8",
    ],
)  # fmt: skip
def test_what_is_frozen_is_what_was_trained(llama, tokens: torch.Tensor, tmp_path: Path, name: str, tie: bool) -> None:
    model, scheme = llama(tie), MIXED if name == "mixed" else preset(name)
    checkpoint = frozen(model, scheme, tokens)
    checkpoint.save(tmp_path / "quantized")
    loaded = QuantizedCheckpoint.load(tmp_path / "quantized")
    assert loaded.scheme == scheme and loaded.tied == checkpoint.tied and loaded.config == checkpoint.config
    for host_name, host in hosts(model).items():
        entry = loaded.weights.get(host_name)
        if entry is None:
            assert tie and host_name == "lm_head"
            continue
        assert torch.equal(entry.grid.value(), host.weight_fake_quantizer(host.weight))
        assert entry.grid.scale.dtype == host.weight_fake_quantizer.scale_format.dtype
        assert entry.scheme == host.quantization_scheme
    assert torch.equal(restore(loaded)(tokens).logits, model(tokens).logits)
    for key, tensor in checkpoint.rest.items():
        assert torch.equal(loaded.rest[key], tensor)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_rest_is_rounded_once(llama, tokens: torch.Tensor, tmp_path: Path, dtype: torch.dtype, tie: bool) -> None:
    model, scheme = llama(tie), preset("w4a16_g32")
    prepare(model, scheme)
    checkpoint = QuantizedCheckpoint.freeze(model, scheme, rest_dtype=dtype)
    assert checkpoint.config["dtype"] == str(dtype).removeprefix("torch.")
    assert ("lm_head.weight" in checkpoint.rest) != tie
    for name, tensor in checkpoint.rest.items():
        assert torch.equal(tensor, model.state_dict()[name].to(dtype)) and tensor.dtype == dtype
    checkpoint.save(tmp_path / "quantized")
    with torch.no_grad():  # the same rounding, done by hand in the trained model
        for name in checkpoint.rest:
            parameter = model.get_parameter(name)
            parameter.copy_(parameter.to(dtype))
    restored = restore(QuantizedCheckpoint.load(tmp_path / "quantized"))
    assert torch.equal(restored(tokens).logits, model(tokens).logits)
    assert {parameter.dtype for parameter in restored.parameters()} == {torch.float32}


def test_scales_of_keys_and_values_are_kept(llama, tokens: torch.Tensor, tmp_path: Path) -> None:
    model, scheme = llama(), preset("w8a8_static_kv8")
    checkpoint = frozen(model, scheme, tokens)
    checkpoint.save(tmp_path / "quantized")
    loaded = QuantizedCheckpoint.load(tmp_path / "quantized")
    assert [*loaded.kv_scales] == [*kv_caches(model)] == [f"model.layers.{index}.self_attn" for index in range(2)]
    for name, cache in kv_caches(model).items():
        for quantizer, scale in ((cache.key, loaded.kv_scales[name].key), (cache.value, loaded.kv_scales[name].value)):
            assert torch.equal(scale, (quantizer.limit / 127).reshape(1)) and scale.dtype == torch.float32
    assert {"model.layers.0.self_attn.k_scale", "model.layers.1.self_attn.v_scale"} <= loaded.kv_tensors.keys()
    assert not any("kv_fake_quantizer" in name or name in loaded.kv_tensors for name in loaded.rest)
    assert (
        loaded.nbytes
        == checkpoint.nbytes
        == sum(t.nbytes for t in checkpoint.kv_tensors.values()) + replace(checkpoint, kv_scales={}).nbytes
    )
    with pytest.raises(InputError, match="lacks the scale of a static activation"):
        restore(replace(loaded, kv_scales={}))
    with pytest.raises(InputError, match="was prepared with another kv_cache"):
        QuantizedCheckpoint.freeze(model, preset("w8a8_static"))


def test_stop_tokens_are_kept(llama, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = llama()
    model.generation_config.eos_token_id = [3, 5]
    frozen(model, preset("w4a16_g32"), tokens).save(tmp_path / "quantized")
    assert json.loads((tmp_path / "quantized/generation_config.json").read_text())["eos_token_id"] == [3, 5]
    loaded = QuantizedCheckpoint.load(tmp_path / "quantized")
    assert restore(loaded).generation_config.eos_token_id == [3, 5]
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/generation_config.json").read_bytes() == (
        tmp_path / "quantized/generation_config.json"
    ).read_bytes()


def test_a_model_that_does_not_generate_has_no_generation_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=50, **fields)).eval()
    scheme = preset("w4a16_channel")
    prepare(model, scheme)
    QuantizedCheckpoint.freeze(model, scheme, "encoder").save(tmp_path / "quantized")
    assert not (tmp_path / "quantized/generation_config.json").exists()
    loaded = QuantizedCheckpoint.load(tmp_path / "quantized")
    assert loaded.generation_config is None
    restore(loaded)


def test_nbytes_counts_packed_bits(llama, tokens: torch.Tensor) -> None:
    checkpoint = frozen(llama(), preset("w4a16_channel"), tokens)
    weights = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    channels = 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    rest = 4 * (100 * 64 + 5 * 64)
    assert checkpoint.nbytes == weights // 2 + channels * 2 + rest


def test_gpt2_is_frozen_as_linears(tokens: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=2, n_positions=32)).eval()
    conv1d.to_linear(model)
    checkpoint = frozen(model, preset("w4a16_channel"), tokens)
    assert checkpoint.conv1d == [
        f"transformer.h.0.{part}" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert tuple(checkpoint.weights["transformer.h.0.mlp.c_fc"].grid.codes.shape) == (128, 32)
    assert torch.equal(restore(checkpoint)(tokens).logits, model(tokens).logits)


def test_freezing_needs_a_finished_model(llama, tokens: torch.Tensor) -> None:
    with pytest.raises(InputError, match="no fake quantizers"):
        QuantizedCheckpoint.freeze(llama(), preset("w8a8"))
    model = llama()
    prepare(model, preset("w4a16_g32"))
    apply_state(model, PrecisionState("x", weight_bits=8))
    with pytest.raises(InputError, match="q_proj.weight_fake_quantizer is at 8 bits .* promises 4 bits"):
        QuantizedCheckpoint.freeze(model, preset("w4a16_g32"))
    model = llama()
    prepare(model, preset("w8a8_static"))
    with pytest.raises(InputError, match="has no range yet: calibrate"):
        QuantizedCheckpoint.freeze(model, preset("w8a8_static"))


def test_numbers_that_are_not_finite_are_named(llama) -> None:
    model = llama()
    prepare(model, preset("w4a16_g32"))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(RunError, match="model.layers.1.mlp.up_proj.weight holds numbers that are not finite"):
        QuantizedCheckpoint.freeze(model, preset("w4a16_g32"))


@pytest.fixture
def saved(llama, tokens: torch.Tensor, tmp_path: Path) -> Path:
    frozen(llama(), preset("w4a16_g32"), tokens).save(tmp_path / "quantized")
    return tmp_path / "quantized"


def test_every_damaged_file_is_named(saved: Path) -> None:
    names = list(verify(saved)["files"])
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    for name in names:
        path = saved / name
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        path.write_bytes(flipped)
        fix = r"quantize again \(qat run, qat train or qat ptq\) or copy the folder again from where it came$"
        with pytest.raises(InputError, match=f"{name} is damaged: its sha256 is not the manifest's; {fix}"):
            QuantizedCheckpoint.load(saved)
        path.write_bytes(whole[:-1])
        with pytest.raises(InputError, match=f"{name} is damaged"):
            QuantizedCheckpoint.load(saved)
        path.unlink()
        with pytest.raises(InputError, match=f"{name} is missing"):
            QuantizedCheckpoint.load(saved)
        path.write_bytes(whole)
    QuantizedCheckpoint.load(saved)


def test_bad_manifests_are_refused(saved: Path) -> None:
    path = saved / "manifest.json"
    whole = json.loads(path.read_text())
    for changed, message in (
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        (json.dumps(whole | {"format_version": 99}), "format version 99; this qat reads version 1"),
        (json.dumps(digested(whole | {"files": {"../x": "0"}})), "not a file of its own folder"),
    ):
        path.write_text(changed)
        with pytest.raises(InputError, match=message):
            verify(saved)
    path.unlink()
    with pytest.raises(InputError, match="is no quantized checkpoint"):
        verify(saved)


def digested(manifest: dict) -> dict:
    return manifest | {"sha256": digest_of(manifest)}


def test_an_altered_or_missing_key_of_the_manifest_is_seen(saved: Path) -> None:
    path = saved / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole))  # other spaces, the same content
    assert verify(saved) == whole
    name = next(iter(whole["modules"]))
    altered = json.loads(path.read_text())
    altered["modules"][name]["scheme"]["weights"]["num_bits"] = 8
    for changed in (altered, whole | {"task": "encoder"}, whole | {"tied": [["a", "b"]]}, whole | {"more": 1}):
        path.write_text(json.dumps(changed))
        with pytest.raises(InputError, match="manifest.json is damaged: its sha256 is not the one that it holds"):
            QuantizedCheckpoint.load(saved)
    for key in whole.keys() - {"format_version", "files"}:
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(InputError, match=f"manifest.json is damaged: it lacks '{key}'"):
            QuantizedCheckpoint.load(saved)


def test_an_existing_folder_is_not_overwritten(llama, tokens: torch.Tensor, saved: Path) -> None:
    before = (saved / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        frozen(llama(), preset("w4a16_g32"), tokens).save(saved)
    assert (saved / "manifest.json").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["quantized"]


def test_the_same_model_gives_the_same_bytes(llama, tokens: torch.Tensor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        frozen(llama(), preset("w4a16_g32"), tokens).save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_checkpoint_of_another_model_is_refused(llama, tokens: torch.Tensor) -> None:
    checkpoint = frozen(llama(), preset("w4a16_g32"), tokens)
    del checkpoint.rest["model.norm.weight"]
    with pytest.raises(InputError, match="lacks model.norm.weight"):
        restore(checkpoint)


def test_the_tokenizer_is_one_that_transformers_4_knows(llama, tokens: torch.Tensor, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama.directory())
    frozen(llama(), preset("w4a16_channel"), tokens).save(tmp_path / "quantized", tokenizer)
    options = json.loads((tmp_path / "quantized" / "tokenizer_config.json").read_text())
    assert options["tokenizer_class"] == "PreTrainedTokenizerFast"
    verify(tmp_path / "quantized")
